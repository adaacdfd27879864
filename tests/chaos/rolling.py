"""A rolling restart under load."""

import asyncio
import time

import asyncpg

from tests.chaos.arena import Arena
from tests.chaos.invariants import Evidence
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.sink import SLOW_RCPT_S
from tests.chaos.waiting import until

WORKERS = 3
PER_S, PER_S_SHORT = 20.0, 10.0
SLOW = 5  # e-mails that a relay holds at RCPT for longer than the drain time
MARGIN_S, MARGIN_SHORT_S = 3.0, 12.0  # for the others to claim and send what was released


async def rolling_restart(arena: Arena) -> list[Row]:
    """Restart 3 workers one after the other under load.

    No attempt is burned, no e-mail waits beyond the drain time.
    """
    row = Row('rolling restart of 3')
    drain_s = 8 if arena.short else 20
    async with (
        arena.stage('rolling', WORKER_DRAIN_S=str(drain_s)) as stage,
        Producer(stage) as producer,
    ):
        # Transactions take a while, so that some are always under way.
        await asyncio.to_thread(stage.control.misbehave, 'dot', 'stall', seconds=0.3)
        await stage.fleet.start_up(WORKERS)
        enough = asyncio.Event()
        trickling = asyncio.create_task(producer.trickle(stage.pick(PER_S, PER_S_SHORT), enough))
        terms: dict[str, float] = {}  # worker -> time of its SIGTERM
        slowest_s = 0.0
        for worker in list(stage.fleet.up):
            seen = len(stage.events(do='slow-rcpt'))
            await producer.queue(SLOW, tag='+slow-rcpt')
            await until(
                lambda n=seen: len(stage.events(do='slow-rcpt')) >= n + SLOW, 25, 'slow RCPTs'
            )
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
            recovery=lambda found: [
                wait_s for email in _quick(found) for wait_s in _delay(found, email, terms)
            ],
            most_duplicates=0,
        )
        at_most_s = drain_s + stage.pick(MARGIN_S, MARGIN_SHORT_S)
        row.problems += _disturbed(evidence, terms, at_most_s)
        row.notes.append(
            f'drain time {drain_s} s; the slowest worker ended after {slowest_s:.1f} s'
        )
        if slowest_s > at_most_s:
            row.problems.append(f'a worker took {slowest_s:.1f} s to end')
    return [row]


def _was_slow(evidence: Evidence, email_id: int) -> bool:
    """Tell whether the relay answered it only after its stall."""
    return any(
        (a['duration_ms'] or 0) > 900 * SLOW_RCPT_S for a in evidence.attempts.get(email_id, [])
    )


def _quick(evidence: Evidence) -> list[asyncpg.Record]:
    return [email for email in evidence.emails if not _was_slow(evidence, email['id'])]


def _delay(evidence: Evidence, email: asyncpg.Record, terms: dict[str, float]) -> list[float]:
    """From being queued to the delivery.

    When a worker that stopped released it, from that worker's SIGTERM.
    """
    if email['sent_at'] is None:
        return []
    began = [terms.get(a['worker'], 0.0) for a in evidence.of(email) if a['outcome'] == 'released']
    return [email['sent_at'] - max(email['created_at'], *began, 0.0)]


def _disturbed(evidence: Evidence, terms: dict[str, float], at_most_s: float) -> list[str]:
    problems = []
    for email in _quick(evidence):
        outcomes = [attempt['outcome'] for attempt in evidence.of(email)]
        if email['attempts'] != 1 or set(outcomes) - {'accepted', 'released'}:
            problems.append(
                f'e-mail {email["id"]}: {email["attempts"]} attempts counted, {outcomes}'
            )
        if max(_delay(evidence, email, terms), default=0.0) > at_most_s:
            delays = _delay(evidence, email, terms)
            problems.append(
                f'e-mail {email["id"]} was delayed by more than {at_most_s} s: {delays}'
            )
    return problems
