"""A rolling restart under load, and workers whose clocks disagree."""

import asyncio
import time
from pathlib import Path

import asyncpg

from tests.chaos import recovery
from tests.chaos.arena import SMTP_CONNECTIONS, Arena, Stage
from tests.chaos.invariants import Evidence
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.sink import SLOW_RCPT_S
from tests.chaos.waiting import until

WORKERS = 3
PER_S = 20.0
SLOW = 5  # e-mails that a relay holds at RCPT for longer than the drain time
MARGIN_S = 3.0  # for the others to claim and send what was released
SKEW_S = 60  # ahead, and as much behind
LIBRARIES = ('usr/lib/*/faketime/libfaketime.so.1', 'usr/lib64/faketime/libfaketime.so.1')


async def rolling_restart(arena: Arena) -> list[Row]:
    """Restart 3 workers one after the other under load; no attempt is burned, no e-mail waits beyond the drain time."""
    row = Row('rolling restart of 3')
    drain_s = 4 if arena.short else 20
    async with arena.stage('rolling', WORKER_DRAIN_S=str(drain_s)) as stage, Producer(stage) as producer:
        # Transactions take a while, so that some are always under way.
        await asyncio.to_thread(stage.control.misbehave, 'dot', 'stall', seconds=0.3)
        await stage.fleet.start_up(WORKERS)
        enough = asyncio.Event()
        trickling = asyncio.create_task(producer.trickle(PER_S, enough))
        terms: dict[str, float] = {}  # worker -> time of its SIGTERM
        slowest_s = 0.0
        for worker in list(stage.fleet.up):
            seen = len(stage.events(do='slow-rcpt'))
            await producer.queue(SLOW, tag='+slow-rcpt')
            await until(lambda n=seen: len(stage.events(do='slow-rcpt')) >= n + SLOW, 20, 'slow RCPTs')
            await stage.fleet.start_up(1)
            term_at = terms[worker.identity] = time.time()
            status = await stage.fleet.stop(worker)
            slowest_s = max(slowest_s, time.time() - term_at)
            row.faults += 1
            if status != 0:
                row.problems.append(f'{worker.name} ended with status {status}')
        enough.set()
        await trickling
        await asyncio.to_thread(stage.control.behave)
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=90,
            recovery=lambda found: [wait_s for email in _quick(found) for wait_s in _delay(found, email, terms)],
            most_duplicates=0,
        )
        row.problems += _disturbed(evidence, terms, drain_s)
        row.notes.append(f'drain time {drain_s} s; the slowest worker ended after {slowest_s:.1f} s')
        if slowest_s > drain_s + MARGIN_S:
            row.problems.append(f'a worker took {slowest_s:.1f} s to end')
    return [row]


def _was_slow(evidence: Evidence, email_id: int) -> bool:
    """Tell whether the relay answered it only after its stall."""
    return any((a['duration_ms'] or 0) > 900 * SLOW_RCPT_S for a in evidence.attempts.get(email_id, []))


def _quick(evidence: Evidence) -> list[asyncpg.Record]:
    return [email for email in evidence.emails if not _was_slow(evidence, email['id'])]


def _delay(evidence: Evidence, email: asyncpg.Record, terms: dict[str, float]) -> list[float]:
    """From being queued to the delivery; when a worker that stopped released it, from that worker's SIGTERM."""
    if email['sent_at'] is None:
        return []
    began = [terms.get(a['worker'], 0.0) for a in evidence.of(email) if a['outcome'] == 'released']
    return [email['sent_at'] - max(email['created_at'], *began, 0.0)]


def _disturbed(evidence: Evidence, terms: dict[str, float], drain_s: float) -> list[str]:
    problems = []
    for email in _quick(evidence):
        outcomes = [attempt['outcome'] for attempt in evidence.of(email)]
        if email['attempts'] != 1 or set(outcomes) - {'accepted', 'released'}:
            problems.append(f'e-mail {email["id"]}: {email["attempts"]} attempts counted, {outcomes}')
        if max(_delay(evidence, email, terms), default=0.0) > drain_s + MARGIN_S:
            problems.append(
                f'e-mail {email["id"]} was delayed by more than {drain_s} s: {_delay(evidence, email, terms)}'
            )
    return problems


async def clocks(arena: Arena) -> list[Row]:
    """Two workers whose clocks are 2 minutes apart, one of them killed now and then; PostgreSQL's clock decides."""
    row = Row('two clocks 2 minutes apart')
    library = _fake_time_library()
    if library is None:
        row.skipped = 'libfaketime is not installed (Debian: apt-get install libfaketime)'
        return [row]
    shifts = [
        {
            'LD_PRELOAD': library,
            'FAKETIME': f'{sign}{SKEW_S}s',
            'FAKETIME_DONT_FAKE_MONOTONIC': '1',
            'DONT_FAKE_MONOTONIC': '1',
        }
        for sign in '+-'
    ]
    async with arena.stage('clocks') as stage, Producer(stage) as producer:
        workers = [stage.fleet.start(**shift) for shift in shifts]
        await stage.fleet.started(*workers)
        for turn in range(2):
            await producer.queue(stage.pick(500, 60))
            # Retries: their times are PostgreSQL's.
            await producer.queue(stage.pick(30, 10), tag='+4xx-twice')
            stage.fleet.kill(workers[turn])
            row.faults += 1
            workers[turn] = stage.fleet.start(**shifts[turn])
            await stage.fleet.started(workers[turn])
        _check_shift(stage, row)
        await stage.finish(
            row,
            producer.ids,
            deadline_s=2 * stage.lease_s + 60,
            recovery=lambda evidence: recovery.after_kills(evidence, stage.fleet.kills),
            most_duplicates=row.faults * SMTP_CONNECTIONS,
        )
    # libfaketime's clock_nanosleep refuses the sleeps of pymongo's own threads; no e-mail here needs MongoDB.
    row.notes = [note for note in row.notes if 'Traceback' not in note]
    return [row]


def _fake_time_library() -> str | None:
    found = [path for pattern in LIBRARIES for path in Path('/').glob(pattern)]
    return str(found[0]) if found else None


def _check_shift(stage: Stage, row: Row) -> None:
    """Make sure that the clocks really differ."""
    firsts = {
        worker.log.split('"timestamp": "')[1][:16]
        for worker in stage.fleet.workers[:2]
        if '"timestamp": "' in worker.log
    }
    if len(firsts) != 2:
        row.problems.append(f'the clocks do not differ: {firsts}')
