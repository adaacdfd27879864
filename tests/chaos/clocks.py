"""Workers whose clocks are wrong (libfaketime).

Two that disagree, and one alone with nobody to do its work in time.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.chaos import recovery
from tests.chaos.arena import SMTP_CONNECTIONS, Arena, Stage
from tests.chaos.fleet import Worker
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.waiting import until

SKEW_S = 120
LATER_S = 6.0  # when e-mails are due that are not due at once
SOON_S = 30.0  # less than any error that the clock's could cause
LIBRARIES = ('usr/lib/*/faketime/libfaketime.so.1', 'usr/lib64/faketime/libfaketime.so.1')
HOLDER_SQL = "SELECT claimed_by FROM outbound_emails WHERE id = $1 AND status = 'sending'"
EARLY_SQL = """
SELECT count(*) FROM email_attempts WHERE email_id = ANY($1::bigint[]) AND started_at < $2
"""


async def clocks(arena: Arena) -> list[Row]:
    """Two workers whose clocks are 2 minutes apart.

    Then one alone, 2 minutes behind, and one alone, 2 ahead.
    """
    rows = [
        Row('two clocks 2 minutes apart'),
        Row('one worker alone, its clock 2 minutes behind'),
        Row('one worker alone, its clock 2 minutes ahead'),
    ]
    library = _fake_time_library()
    if library is None:
        for row in rows:
            row.skipped = 'libfaketime is not installed (Debian: apt-get install libfaketime)'
        return rows
    apart, behind, ahead = rows
    await _two(arena, apart, library)
    await _alone(arena, behind, library, -SKEW_S)
    await _alone(arena, ahead, library, SKEW_S)
    for row in rows:
        # libfaketime's clock_nanosleep refuses the sleeps of pymongo's own threads; no e-mail here
        # needs MongoDB.
        row.notes = [note for note in row.notes if 'Traceback' not in note]
    return rows


def _fake_time_library() -> str | None:
    found = [path for pattern in LIBRARIES for path in Path('/').glob(pattern)]
    return str(found[0]) if found else None


def _shift(library: str, by_s: float) -> dict[str, str]:
    return {
        'LD_PRELOAD': library,
        'FAKETIME': f'{by_s:+.0f}s',
        'FAKETIME_DONT_FAKE_MONOTONIC': '1',
        'DONT_FAKE_MONOTONIC': '1',
    }


async def _two(arena: Arena, row: Row, library: str) -> None:
    """One of the two is killed now and then; PostgreSQL's clock decides about their leases."""
    shifts = [SKEW_S / 2, -SKEW_S / 2]
    async with arena.stage('clocks') as stage, Producer(stage) as producer:
        workers = [stage.fleet.start(**_shift(library, by_s)) for by_s in shifts]
        await stage.fleet.started(*workers)
        for turn in range(2):
            await producer.queue(stage.pick(500, 60))
            # Retries: their times are PostgreSQL's.
            await producer.queue(stage.pick(30, 10), tag='+4xx-twice')
            stage.fleet.kill(workers[turn])
            row.faults += 1
            workers[turn] = stage.fleet.start(**_shift(library, shifts[turn]))
            await stage.fleet.started(workers[turn])
        row.problems += [
            problem
            for worker, by_s in zip(workers, shifts, strict=True)
            for problem in _odd(worker, by_s)
        ]
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=2 * stage.lease_s + 60,
            recovery=lambda evidence: recovery.after_kills(evidence, stage.fleet.kills),
            most_duplicates=row.faults * SMTP_CONNECTIONS,
        )
        row.problems += recovery.beyond_promise(evidence, stage.fleet.kills)


async def _alone(arena: Arena, row: Row, library: str, by_s: float) -> None:
    """Nobody else's clock helps.

    Jobs, retries, mail for later and the mail of a killed worker come when they are due.

    Jobs are due by Redis's TIME; a worker that looked at its own clock would run them 2 minutes
    late.
    """
    async with (
        arena.stage(f'clock-{"ahead" if by_s > 0 else "behind"}') as stage,
        Producer(stage) as producer,
    ):
        (worker,) = await stage.fleet.start_up(1, **_shift(library, by_s))
        due_at = datetime.now(UTC) + timedelta(seconds=LATER_S)
        later = await producer.queue(10, send_at=due_at)
        await producer.queue(stage.pick(300, 40))
        await producer.queue(10, tag='+4xx-twice')
        await stage.quiet(producer.ids, SOON_S)
        if early := await stage.pool.fetchval(EARLY_SQL, later, due_at):
            row.problems.append(f'{early} attempts were made before their e-mails were due')
        row.problems += _odd(worker, by_s)
        await _replace_while_it_sends(stage, producer, worker, library, by_s)
        row.faults += 1
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=stage.lease_s + 30,
            recovery=lambda evidence: recovery.after_kills(evidence, stage.fleet.kills),
            most_duplicates=0,
        )
        row.problems += recovery.beyond_promise(evidence, stage.fleet.kills)


async def _replace_while_it_sends(
    stage: Stage, producer: Producer, worker: Worker, library: str, by_s: float
) -> None:
    (held,) = await producer.queue(1, tag='+after-rcpt')
    await until(lambda: stage.events(do='after-rcpt'), 60, 'a stall after RCPT')
    holder = await stage.pool.fetchval(HOLDER_SQL, held)
    assert holder == worker.identity, f'{holder} holds what {worker.identity} sends'
    stage.fleet.kill(worker)
    await stage.fleet.start_up(1, **_shift(library, by_s))


def _odd(worker: Worker, by_s: float) -> list[str]:
    """Make sure that the worker's clock really is wrong: by the time of its first line."""
    first = json.loads(next(line for line in worker.log.splitlines() if line.startswith('{')))
    off_s = datetime.fromisoformat(first['timestamp']).timestamp() - worker.started_at
    return (
        []
        if abs(off_s - by_s) < SKEW_S / 4
        else [f'the clock of {worker.name} is off by {off_s:.0f} s, not {by_s}']
    )
