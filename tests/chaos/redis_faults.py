"""Redis killed, emptied, frozen, full, and with another password.

The same workers live through all of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from tests.chaos import recovery
from tests.chaos.arena import Arena, Stage
from tests.chaos.load import Producer
from tests.chaos.report import Row

WORKERS = 2
# E-mails queued together just before the fault; the relay is slow then, so that it meets a filled
# queue.
BURST = 150
SLOW_DOT_S = 1.0
PER_S = 25.0
OTHER_PASSWORD = 'changed'
BACK_BY_S = 10.0  # from the end of the fault to the last e-mail, at most


@dataclass(frozen=True)
class Fault:
    """One fault: `begin` and `end` it; both may block a thread of ours."""

    title: str
    begin: Callable[[Stage], Awaitable[None]]
    end: Callable[[Stage], Awaitable[None]]
    lasts_s: tuple[float, float]  # full, short
    # An e-mail is delivered within this all the same, the burst before the fault included.
    slowest_s: float


async def redis_faults(arena: Arena) -> list[Row]:
    """Redis kill -9 and restart, FLUSHALL, SIGSTOP, OOM, password changed and back; under load."""
    async with arena.stage('redis') as stage:
        await stage.fleet.start_up(WORKERS)
        rows = [await _live_through(stage, fault) for fault in FAULTS]
        rows[-1].problems += await stage.fleet.stop_all()
        rows[-1].notes += [f'logged: {alarm}' for alarm in stage.fleet.alarms()]
    return rows


async def _live_through(stage: Stage, fault: Fault) -> Row:
    row = Row(f'Redis {fault.title}', faults=1)
    started, enough = time.time(), asyncio.Event()
    async with Producer(stage) as producer:
        await asyncio.to_thread(stage.control.misbehave, 'dot', 'stall', seconds=SLOW_DOT_S)
        trickling = asyncio.create_task(producer.trickle(PER_S, enough))
        await producer.queue(stage.pick(3 * BURST, BURST))
        begun_at = time.time()
        await fault.begin(stage)
        await asyncio.to_thread(stage.control.behave)
        await asyncio.sleep(stage.pick(*fault.lasts_s))
        await fault.end(stage)
        ended_at = time.time()
        await asyncio.sleep(stage.pick(3, 1))  # the load goes on when the fault is over
        enough.set()
        await trickling
        await stage.quiet(producer.ids, BACK_BY_S + 50)
        row.took_s = time.time() - started
        evidence = await stage.judge(
            row, producer.ids, recovery=lambda e: recovery.during(e, begun_at, ended_at)
        )
        row.notes = [f'Redis refused {producer.refused:,} jobs'] if producer.refused else []
    if stage.fleet.died:
        row.problems.append(f'{len(stage.fleet.died)} workers ended by themselves')
    slowest_s = stage.pick(
        fault.slowest_s, 2 * fault.slowest_s
    )  # the short run shares its cores with more
    late = [wait_s for wait_s in evidence.recovery_s if wait_s > slowest_s]
    if late:
        row.problems.append(
            f'{len(late)} e-mails took more than {slowest_s:.0f} s, the slowest {max(late):.1f} s'
        )
    if row.duplicates:
        row.problems.append('a fault of Redis must not give duplicates')
    return row


async def _kill(stage: Stage) -> None:
    await asyncio.to_thread(stage.stack.valkey.kill)


async def _start(stage: Stage) -> None:
    await asyncio.to_thread(stage.stack.valkey.start)


async def _flush(stage: Stage) -> None:
    await stage.redis.flushall()


async def _freeze(stage: Stage) -> None:
    await asyncio.to_thread(stage.stack.valkey.freeze)


async def _thaw(stage: Stage) -> None:
    await asyncio.to_thread(stage.stack.valkey.thaw)


async def _fill(stage: Stage) -> None:
    await stage.redis.config_set('maxmemory', 1)


async def _empty(stage: Stage) -> None:
    await stage.redis.config_set('maxmemory', 0)


async def _change_password(stage: Stage) -> None:
    await stage.redis.config_set('requirepass', OTHER_PASSWORD)
    # Connections that are logged in stay so: end the workers', not ours.
    with suppress(RedisError):
        await stage.redis.execute_command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')


async def _change_back(stage: Stage) -> None:
    await stage.redis.execute_command('AUTH', OTHER_PASSWORD)
    await stage.redis.config_set('requirepass', stage.stack.valkey.password)


async def _nothing(_: Stage) -> None:
    pass


# A sweep comes every second while Redis is away, within 5 s when it was emptied; a frozen one is
# noticed after 5 s.
FAULTS = (
    Fault('kill -9 and restart', _kill, _start, (10, 3), slowest_s=10),
    Fault('FLUSHALL', _flush, _nothing, (8, 6), slowest_s=12),
    Fault('SIGSTOP', _freeze, _thaw, (20, 8), slowest_s=15),
    Fault('full (OOM)', _fill, _empty, (10, 3), slowest_s=10),
    Fault('password changed and back', _change_password, _change_back, (10, 3), slowest_s=10),
)
