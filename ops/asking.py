"""Asking live workers: which ones, for how long, and what it means when some do not reply."""

import argparse
import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from arq.connections import ArqRedis

from db.identity import is_other, read_identity
from fleet.channel import Asked, ask, choose
from fleet.registry import WorkerRecord, read_workers
from ops.answer import NO_WORKER, NOBODY_REPLIED, Document, Trouble
from ops.connect import Connections, attempt
from ops.live import is_alive, told_by, with_workers
from reporting.overview import read_fleet


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Give a command --worker and --timeout, Celery's -d and -t."""
    parser.add_argument(
        '-d', '--worker', '--destination', dest='workers', action='append', metavar='NAME',
        help='only this worker; * stands for anything; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '-t',
        '--timeout',
        type=wait_s,
        default=2.0,
        metavar='SECONDS',
        help='wait for replies (default 2)',
    )


def no_such_worker(others: Sequence[str], names: Sequence[str] = ()) -> Trouble:
    """Say that --worker means nobody who replies, and whom it could mean. names: those that are in vain, if not all."""
    known = f'known: {", ".join(others)}' if others else 'none has registered'
    what = f'no reply from {", ".join(names)}' if names else 'no worker of that name replied'
    return Trouble(what, known, exit_status=NO_WORKER)


def wait_s(text: str) -> float:
    """Read how long to wait for replies."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 600:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds up to 600')
    return seconds


@dataclass(frozen=True, slots=True)
class Answers:
    """What the workers said."""

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

    def troubles(self) -> list[Trouble]:
        """Judge silence and refusals."""
        found = [
            Trouble(f'{r["worker"]}: {r["refused"]}', 'nothing was changed there')
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
                Trouble(
                    f'no reply from {", ".join(self.silent)}',
                    'wait longer with --timeout, or read its log',
                )
            )
        return found


async def ask_workers(
    connections: Connections,
    options: argparse.Namespace,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    database: str | None = None,
) -> Answers:
    """Ask the workers that are meant. database: only those that serve it, or do not say which they serve."""
    asking = partial(
        _ask, command=command, arguments=arguments, patterns=options.workers, database=database,
        timeout_s=options.timeout,
    )  # fmt: skip
    return await connections.ask_redis(asking)


async def _ask(
    redis: ArqRedis,
    command: str,
    arguments: Mapping[str, Any] | None,
    patterns: Sequence[str] | None,
    database: str | None,
    timeout_s: float,
) -> Answers:
    everybody = await read_workers(redis)
    registered = [record for record in everybody if not is_other(record.database, database)]
    names = [record.worker for record in registered]
    wanted = None if patterns is None else choose(patterns, names)
    if not all(
        record.database for record in everybody
    ):  # a worker of an older version: it would refuse the database
        wanted = names if wanted is None and names and database else wanted
        database = None
    asked = await ask(
        redis, command, arguments, workers=wanted, database=database, timeout_s=timeout_s
    )
    replied = {reply['worker'] for reply in asked.replies}
    meant = [record for record in registered if wanted is None or record.worker in wanted]
    silent = [record.worker for record in meant if record.worker not in replied]
    others = [record.worker for record in registered if record not in meant]
    unknown = [name for name in wanted or () if name not in names and name not in replied]
    return Answers(asked, meant, silent, others, unknown)


async def read_database(connections: Connections) -> str | None:
    """Return which database this command's settings name, see db.identity; None while PostgreSQL does not tell."""
    return await attempt(connections.ask_postgres(read_identity), [])


async def read_live(connections: Connections, options: argparse.Namespace) -> list[WorkerRecord]:
    """Ask the workers what they are doing; those that do not reply in time are told of as they last registered."""
    answers = await ask_workers(connections, options, 'describe')
    told = {record.worker: record for record in told_by(answers.asked)}
    known = {record.worker: record for record in answers.known} | told
    return [known[name] for name in sorted(known)]


async def read_living_fleet(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document | None:
    """Return workers and queues, see reporting.overview.read_fleet, with the workers as they are this moment."""
    fleet, live = await asyncio.gather(
        attempt(connections.ask_redis(read_fleet), troubles),
        attempt(read_live(connections, options), troubles),
    )
    if fleet is None or live is None:
        return None
    if options.workers and not live and is_alive(fleet):
        troubles.append(no_such_worker([worker['worker'] for worker in fleet['workers']]))
    return with_workers(fleet, live)
