"""The fleet as it is this moment: which workers live, and what they reply when they are asked."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError

from db.identity import is_other, read_identity
from engine.queues import QUEUES
from fleet.channel import Asked, ask, chosen_workers
from fleet.registry import WorkerRecord, read_served_queues, read_workers, record_from
from reporting.overview import as_documents, read_fleet
from reporting.problems import NO_WORKER, NOBODY_REPLIED, Document, Problem, is_alive
from reporting.servers import Servers, answer_or_note


@dataclass(frozen=True, slots=True)
class Audience:
    """Which workers are asked, and how long their replies are waited for."""

    workers: Sequence[str] | None = None  # names, where * stands for anything; None: all
    timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the workers replied."""

    asked: Asked
    known: list[WorkerRecord]  # those that registered, and are meant
    silent: list[str]  # registered and meant, but did not reply
    others: list[str]  # registered, but not meant
    unknown: list[str]  # meant by a whole name, and neither registered nor heard of

    @property
    def done(self) -> list[Document]:
        """What was done: each worker's name, and its answer's parts."""
        return [
            {'worker': reply['worker'], **reply['done']}
            for reply in self.asked.replies
            if 'done' in reply
        ]

    @property
    def refused(self) -> list[Document]:
        """Who did not do it, and why."""
        return [r for r in self.asked.replies if 'refused' in r]

    def problems(self) -> list[Problem]:
        """Judge silence and refusals."""
        found = [
            Problem(f'{r["worker"]}: {r["refused"]}', 'nothing was changed there')
            for r in self.refused
        ]
        if not self.asked.replies and not self.known and self.others:
            return [no_such_worker(self.others)]
        if not self.asked.replies:
            return [NOBODY_REPLIED]
        if self.unknown:
            found.append(
                no_such_worker([record.worker for record in self.known] + self.others, self.unknown)
            )
        if self.silent:
            found.append(
                Problem(
                    f'no reply from {", ".join(self.silent)}',
                    'wait longer with --timeout, or read its log',
                )
            )
        return found


def no_such_worker(others: Sequence[str], names: Sequence[str] = ()) -> Problem:
    """Say that --worker means nobody who replies, and whom it could mean.

    Args:
        names: Those that are in vain, if not all.
    """
    known = f'known: {", ".join(others)}' if others else 'none has registered'
    what = f'no reply from {", ".join(names)}' if names else 'no worker of that name replied'
    return Problem(what, known, exit_status=NO_WORKER)


async def ask_workers(
    servers: Servers,
    audience: Audience,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    database: str | None = None,
) -> Answers:
    """Ask the workers that are meant.

    Args:
        database: Only those that serve it, or do not say which they serve.
    Raises:
        ProblemError: Redis does not answer; the same for the others here.
    """
    asking = partial(
        _ask, command=command, arguments=arguments, audience=audience, database=database
    )
    return await servers.ask_redis(asking)


async def _ask(
    redis: ArqRedis,
    command: str,
    arguments: Mapping[str, Any] | None,
    audience: Audience,
    database: str | None,
) -> Answers:
    everybody = await read_workers(redis)
    registered = [record for record in everybody if not is_other(record.database, database)]
    names = [record.worker for record in registered]
    wanted = None if audience.workers is None else chosen_workers(audience.workers, names)
    # A worker of an older version, which says no database, would refuse a command that names one.
    if not all(record.database for record in everybody):
        wanted = names if wanted is None and names and database else wanted
        database = None
    asked = await ask(
        redis, command, arguments, workers=wanted, database=database, timeout_s=audience.timeout_s
    )
    replied = {reply['worker'] for reply in asked.replies}
    meant = [record for record in registered if wanted is None or record.worker in wanted]
    silent = [record.worker for record in meant if record.worker not in replied]
    others = [record.worker for record in registered if record not in meant]
    unknown = [name for name in wanted or () if name not in names and name not in replied]
    return Answers(asked, meant, silent, others, unknown)


async def read_database(servers: Servers) -> str | None:
    """Return which database our addresses name, see db.identity; None without PostgreSQL."""
    return await answer_or_note(servers.ask_postgres(read_identity), [])


async def read_live(servers: Servers, audience: Audience) -> list[WorkerRecord]:
    """Ask the workers what they do; one that does not reply in time is as it last registered."""
    answers = await ask_workers(servers, audience, 'describe')
    replied = {record.worker: record for record in described(answers.asked)}
    known = {record.worker: record for record in answers.known} | replied
    return [known[name] for name in sorted(known)]


async def read_living_fleet(
    servers: Servers, audience: Audience, problems: list[Problem]
) -> Document | None:
    """Return the fleet, workers as they are this moment, see reporting.overview.read_fleet."""
    fleet, live = await asyncio.gather(
        answer_or_note(servers.ask_redis(read_fleet), problems),
        answer_or_note(read_live(servers, audience), problems),
    )
    if fleet is None or live is None:
        return None
    if audience.workers and not live and is_alive(fleet):
        problems.append(no_such_worker([worker['worker'] for worker in fleet['workers']]))
    return with_workers(fleet, live)


async def ask_living(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the workers as they are this moment.

    Those that do not reply in time are as they last registered.
    """
    known = {record.worker: record for record in await read_workers(redis)}
    with contextlib.suppress(NoPermissionError):  # a user that may look, but not ask
        known |= {record.worker: record for record in described(await ask(redis, 'describe'))}
    return [known[name] for name in sorted(known)]


async def ask_alive(redis: ArqRedis) -> tuple[list[WorkerRecord], bool]:
    """Return the workers as ask_living does, and whether anybody works at all."""
    workers = await ask_living(redis)
    return workers, bool(workers) or await has_health_key(redis)


def described(asked: Asked) -> list[WorkerRecord]:
    """Return the records of workers that were asked to describe themselves."""
    records = (
        record_from({'worker': reply['worker'], **reply['done']})
        for reply in asked.replies
        if 'done' in reply
    )
    return [record for record in records if record is not None]


async def read_living(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the registered workers.

    When none is registered, ask: in a Redis that was emptied they register 5 s later.
    """
    return await read_workers(redis) or await ask_living(redis)


async def has_worker(redis: ArqRedis) -> bool:
    """Whether any worker replies; cheaper than read_fleet_now."""
    return bool(await read_living(redis)) or await has_health_key(redis)


async def has_health_key(redis: ArqRedis) -> bool:
    """Whether a worker of arq's own, which does not register, polls one of our queues."""
    return bool(await read_served_queues(redis, (), QUEUES))


async def read_fleet_now(redis: ArqRedis) -> Document:
    """Return the fleet, see reporting.overview.read_fleet.

    When no worker is registered, they are as they reply.
    """
    fleet = await read_fleet(redis)
    return fleet if fleet['workers'] else with_workers(fleet, await ask_living(redis))


def with_workers(fleet: Document, workers: Sequence[WorkerRecord]) -> Document:
    """Exchange the workers; the queues that they serve are served."""
    served = {worker.queue for worker in workers}
    return fleet | {
        'workers': as_documents(workers),
        'queues': [
            queue | {'served': queue['served'] or queue['name'] in served}
            for queue in fleet['queues']
        ],
    }
