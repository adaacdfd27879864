"""PostgreSQL restarted, all its sessions ended again and again, read-only for a while, frozen
beyond a lease.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg

from tests.chaos import recovery
from tests.chaos.arena import SMTP_CONNECTIONS, Arena, Stage
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.waiting import until

WORKERS = 2
PER_S = 25.0
REACH_S = 60.0
END_SESSIONS_SQL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def postgres_faults(arena: Arena) -> list[Row]:
    """PostgreSQL restarted, every session terminated each second, and new sessions read-only.

    Under load.
    """
    rows = []
    async with arena.stage('postgres') as stage:
        await stage.fleet.start_up(WORKERS)
        rows.append(await _under_load(stage, Row('PostgreSQL restart'), _restart))
        rows.append(
            await _under_load(
                stage, Row('PostgreSQL: all sessions ended each second'), _end_sessions
            )
        )
        rows.append(
            await _under_load(stage, Row('PostgreSQL: read-only for new sessions'), _read_only)
        )
        rows[-1].problems += await stage.fleet.stop_all()
        rows[-1].notes += [f'logged: {alarm}' for alarm in stage.fleet.alarms()]
    return rows


async def frozen(arena: Arena) -> list[Row]:
    """PostgreSQL stopped with SIGSTOP for longer than a lease while e-mails are with the relay, and
    back: no copies.
    """
    async with arena.stage('frozen') as stage:
        row = Row(f'PostgreSQL frozen for {stage.pick(40, 14)} s')
        await stage.fleet.start_up(WORKERS)
        async with Producer(stage) as producer:
            for _ in range(stage.pick(3, 1)):
                await _freeze(stage, producer, row)
            row.took_s = time.time() - stage.started_at
            await stage.finish(
                row, producer.ids, deadline_s=2 * stage.lease_s + 60, most_duplicates=0
            )
    return [row]


async def _freeze(stage: Stage, producer: Producer, row: Row) -> None:
    """Freeze the server in the middle of a batch, with results that wait to be recorded."""
    row.faults += 1
    before = stage.accepted().total()
    await producer.queue(400)
    await until(
        lambda: stage.accepted().total() > before + 40, REACH_S, 'the batch begins', poll_s=0.01
    )
    await asyncio.to_thread(stage.stack.postgres.freeze)
    await asyncio.sleep(stage.pick(40, 14))
    await asyncio.to_thread(stage.stack.postgres.thaw)
    await stage.quiet(producer.ids, 2 * stage.lease_s + 60)


async def _under_load(
    stage: Stage, row: Row, fault: Callable[[Stage, Row], Awaitable[None]]
) -> Row:
    started, enough = time.time(), asyncio.Event()
    async with Producer(stage) as producer:
        trickling = asyncio.create_task(producer.trickle(PER_S, enough))
        await producer.queue(stage.pick(500, 100))
        begun_at = time.time()
        await fault(stage, row)
        ended_at = time.time()
        await asyncio.sleep(1)  # the load goes on when the fault is over
        enough.set()
        await trickling
        ids = await stage.ids_since(started)
        await stage.quiet(ids, 2 * stage.lease_s + 30)
        row.took_s = time.time() - started
        await stage.judge(
            row,
            ids,
            recovery=lambda evidence: recovery.during(evidence, begun_at, ended_at),
            most_duplicates=row.faults * WORKERS * SMTP_CONNECTIONS,
        )
        row.notes.clear()
        if max(row.recovery_s, default=0.0) >= 0.9 * stage.lease_s:
            row.notes.append('a claim whose answer was lost waits for its lease to run out')
    if stage.fleet.died:
        row.problems.append(f'{len(stage.fleet.died)} workers ended by themselves')
    return row


async def _restart(stage: Stage, row: Row) -> None:
    for _ in range(stage.pick(3, 2)):
        row.faults += 1
        await asyncio.to_thread(stage.stack.postgres.stop)
        await asyncio.sleep(stage.pick(5, 2))
        await asyncio.to_thread(stage.stack.postgres.start)
        await asyncio.sleep(stage.pick(3, 1))


async def _end_sessions(stage: Stage, row: Row) -> None:
    conn = await asyncpg.connect(stage.arena.dsn(f'chaos_{stage.name}'))
    for _ in range(stage.pick(15, 5)):
        row.faults += 1
        await conn.execute(END_SESSIONS_SQL)
        await asyncio.sleep(1)
    await conn.close()


async def _read_only(stage: Stage, row: Row) -> None:
    """As a managed server whose disk is full does it.

    The sessions of that time stay read-only afterwards.
    """
    database = f'chaos_{stage.name}'
    conn = await asyncpg.connect(
        stage.arena.dsn(database), server_settings={'default_transaction_read_only': 'off'}
    )
    row.faults += 1
    await conn.execute(f'ALTER DATABASE {database} SET default_transaction_read_only = on')
    await conn.execute(END_SESSIONS_SQL)
    await asyncio.sleep(stage.pick(20, 5))
    await conn.execute(f'ALTER DATABASE {database} RESET default_transaction_read_only')
    await conn.close()
