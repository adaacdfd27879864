"""SIGKILL placed at each phase of an attempt: the sink stalls, or a lock in PostgreSQL waits."""

import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos import recovery
from tests.chaos.arena import Arena, Stage
from tests.chaos.invariants import Evidence
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.waiting import until

WORKERS = 2
REACH_S = 60.0
# More than the sockets' buffers hold: the worker is in the middle of it.
LARGE_BODY = 60_000 * ('one hundred characters in a line ' * 3 + '\n')

HOLDERS_SQL = (
    'SELECT DISTINCT claimed_by FROM outbound_emails WHERE id = ANY($1::bigint[]) AND status '
    "= 'sending'"
)
HELD_SQL = (
    "SELECT count(*) FROM outbound_emails WHERE id = ANY($1::bigint[]) AND status = 'sending'"
)
RECORDED_SQL = 'SELECT DISTINCT worker FROM email_attempts WHERE email_id = ANY($1::bigint[])'
TEMPLATE_SQL = (
    "INSERT INTO email_templates (name, subject, body_text) VALUES ('chaos', 'Chaos', "
    "'Hello') RETURNING id"
)
LOCK_TEMPLATES_SQL = 'LOCK TABLE email_templates IN ACCESS EXCLUSIVE MODE'
LOCK_ROWS_SQL = 'SELECT id FROM outbound_emails WHERE id = ANY($1::bigint[]) FOR UPDATE'
MESSAGE_IDS_SQL = 'SELECT message_id FROM outbound_emails WHERE id = ANY($1::bigint[])'
# By its beginning: pg_stat_activity cuts a query after 1,024 bytes.
RECORDING_SQL = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%recorded AS (%'
"""
END_SESSION_SQL = 'SELECT pg_terminate_backend($1)'


@dataclass(frozen=True)
class Phase:
    """Where the worker dies.

    `hit` queues so many e-mails, kills whoever holds them there and returns their ids.
    """

    title: str
    hit: Callable[[Stage, Producer, int], Awaitable[Sequence[int]]]
    most: int = 10  # e-mails
    lost: int = 1  # attempts lost for each e-mail
    duplicates: int = 0  # for each e-mail


async def by_phase(arena: Arena) -> list[Row]:
    """SIGKILL at each phase of an attempt.

    Exactly the phases in which the relay has the message give a duplicate.
    """
    rows: list[tuple[Row, Phase, Sequence[int]]] = []
    async with arena.stage('phases') as stage, Producer(stage) as producer:
        await stage.fleet.start_up(WORKERS)
        for phase in PHASES:
            before = len(stage.fleet.kills)
            ids = await phase.hit(stage, producer, min(phase.most, stage.pick(10, 3)))
            await stage.quiet(
                ids, 2 * stage.lease_s + 30
            )  # the next kill must not hit them once more
            rows.append(
                (Row(f'SIGKILL {phase.title}', faults=len(stage.fleet.kills) - before), phase, ids)
            )
        await stage.quiet(producer.ids, 2 * stage.lease_s + 30)
        problems = await stage.fleet.stop_all()
        for row, phase, ids in rows:
            evidence = await stage.judge(
                row, ids, recovery=lambda found: recovery.after_kills(found, stage.fleet.kills)
            )
            row.problems += _wrong_numbers(phase, evidence) + recovery.beyond_promise(
                evidence, stage.fleet.kills
            )
            row.notes.clear()
        rows[-1][0].problems += problems
        rows[-1][0].notes += [f'logged: {alarm}' for alarm in stage.fleet.alarms()]
    return [row for row, _, _ in rows]


def _wrong_numbers(phase: Phase, evidence: Evidence) -> list[str]:
    found = []
    for email in evidence.emails:
        lost = sum(attempt['outcome'] == 'lost' for attempt in evidence.of(email))
        copies = evidence.accepted[email['message_id']]
        # A later kill may have hit the same e-mail once more.
        if lost < phase.lost or (lost == phase.lost and copies != 1 + phase.duplicates):
            found.append(
                f'e-mail {email["id"]}: {lost} lost attempts and {copies} copies, not {phase}'
            )
    return found


def stalled(tag: str, **parts: Any) -> Callable[[Stage, Producer, int], Awaitable[Sequence[int]]]:
    """Kill while the sink stalls for this tag."""

    async def hit(stage: Stage, producer: Producer, count: int) -> Sequence[int]:
        ids = await producer.queue(count, tag=f'+{tag}', **parts)
        await until(lambda: len(stage.events(do=tag)) >= count, REACH_S, f'{count} stalls {tag}')
        await _kill_holders(stage, ids)
        return ids

    return hit


async def claimed(stage: Stage, producer: Producer, count: int) -> Sequence[int]:
    """Kill between the claim and the first byte to the relay: the template cannot be read."""
    template_id = await stage.pool.fetchval(TEMPLATE_SQL)
    async with stage.pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK_TEMPLATES_SQL)
        ids = await producer.queue(count, template_id=template_id)
        await _held(stage, ids)
        await _kill_holders(stage, ids)
    return ids


async def replied(stage: Stage, producer: Producer, count: int) -> Sequence[int]:
    """Kill between the relay's reply and the record, which waits for the row and is never made."""
    return await _recording(stage, producer, count, never=True)


async def recording(stage: Stage, producer: Producer, count: int) -> Sequence[int]:
    """Kill while the record is under way: PostgreSQL commits it, and the worker never knows."""
    return await _recording(stage, producer, count, never=False)


async def _recording(stage: Stage, producer: Producer, count: int, *, never: bool) -> Sequence[int]:
    paused = len(stage.events(do='pause'))
    ids = await producer.queue(count, tag='+pause')
    await until(lambda: len(stage.events(do='pause')) >= paused + count, REACH_S, 'pause at RCPT')
    async with stage.pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK_ROWS_SQL, ids)
        message_ids = [row['message_id'] for row in await stage.pool.fetch(MESSAGE_IDS_SQL, ids)]
        await until(
            lambda: all(map(stage.accepted().get, message_ids)), REACH_S, 'acceptance of all'
        )
        await until(lambda: stage.pool.fetch(RECORDING_SQL), REACH_S, 'a record that waits')
        await _kill_holders(stage, ids, replace=False)
        if never:
            for session in await stage.pool.fetch(RECORDING_SQL):
                await stage.pool.execute(END_SESSION_SQL, session['pid'])
    await _replace(stage)
    return ids


async def recorded(stage: Stage, producer: Producer, count: int) -> Sequence[int]:
    """Kill as soon as the record is visible: its job in Redis has not ended, and comes again."""
    ids = await producer.queue(count)
    workers = await until(
        lambda: stage.pool.fetch(RECORDED_SQL, ids), REACH_S, 'a record', poll_s=0.001
    )
    _kill(stage, {row['worker'] for row in workers})
    await _replace(stage)
    return ids


async def _held(stage: Stage, ids: Sequence[int]) -> None:
    async def all_held() -> bool:
        return await stage.pool.fetchval(HELD_SQL, ids) == len(ids)

    await until(all_held, REACH_S, 'claims of all')


async def _kill_holders(stage: Stage, ids: Sequence[int], *, replace: bool = True) -> None:
    _kill(stage, {row['claimed_by'] for row in await stage.pool.fetch(HOLDERS_SQL, ids)})
    if replace:
        await _replace(stage)


def _kill(stage: Stage, identities: set[str]) -> None:
    for worker in stage.fleet.up:
        if worker.identity in identities:
            stage.fleet.kill(worker, signal.SIGKILL)


async def _replace(stage: Stage) -> None:
    await stage.fleet.start_up(WORKERS - len(stage.fleet.up))


PHASES = (
    Phase('after the claim', claimed),
    Phase('after MAIL', stalled('after-mail')),
    Phase('after RCPT', stalled('after-rcpt')),
    Phase('after DATA, in the body', stalled('after-data', body_text=LARGE_BODY), most=1),
    Phase('after the dot, not kept', stalled('at-dot')),
    Phase('after the dot, kept', stalled('at-dot-kept'), duplicates=1),
    Phase('after the reply, before the record', replied, duplicates=1),
    Phase('while PostgreSQL records', recording, most=1, lost=0),
    Phase('after the record', recorded, most=1, lost=0),
)
