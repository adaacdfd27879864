"""Give a command to live workers of our database. Nothing of it outlives the workers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from arq.connections import ArqRedis

from actions.safety import agree
from db.identity import are_mixed, is_other
from fleet.channel import chosen_workers
from fleet.registry import WorkerRecord
from reporting.live import (
    Audience,
    ask_living,
    ask_workers,
    no_such_worker,
    read_database,
    read_living,
)
from reporting.problems import NO_WORKER, NOBODY_REPLIED, Document, Problem, ProblemError
from reporting.servers import Servers

MIXED = Problem(
    'workers of several PostgreSQL databases are here, and ours does not answer',
    'start PostgreSQL, or correct DATABASE_URL: then it is known whose workers are whose',
)


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """One command, see fleet.channel; changes is False for one that only asks."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = True


@dataclass(frozen=True, slots=True)
class Commanded:
    """Who got a command, or would get it, and what each did."""

    dry_run: bool
    workers: Sequence[str]
    done: Sequence[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


async def command_workers(
    servers: Servers,
    command: WorkerCommand,
    audience: Audience,
    *,
    dry_run: bool = False,
    confirm: Callable[[Sequence[str]], None] = agree,
) -> Commanded:
    """Send a command to live workers of our database.

    Args:
        confirm: Gets the workers' names; not called when the command changes nothing.
    Raises:
        ProblemError: Redis does not answer, or nobody knows which workers are ours.
    """
    database = await read_database(servers)
    living = await servers.ask_redis(partial(find_workers, patterns=audience.workers))
    if command.changes and database is None and are_mixed(record.database for record in living):
        raise ProblemError(MIXED)
    ours = [record.worker for record in living if not is_other(record.database, database)]
    names = (
        ours
        if audience.workers is None
        else [name for name in chosen_workers(audience.workers, ours) if name in ours]
    )
    commanded = Commanded(command.changes and dry_run, names)
    if not names:
        foreign = [record.worker for record in living if record.worker not in ours]
        return replace(commanded, problems=[_nobody_meant(audience, ours, foreign)])
    if commanded.dry_run:
        return commanded
    if command.changes:
        confirm(names)
    answers = await ask_workers(servers, audience, command.name, command.arguments, database)
    return replace(commanded, done=answers.done, problems=answers.problems())


def _nobody_meant(audience: Audience, ours: list[str], foreign: list[str]) -> Problem:
    if set(chosen_workers(audience.workers or ['*'], foreign)) & set(foreign):
        what = f'{", ".join(foreign)}: of another PostgreSQL database, and told nothing'
        remedy = 'give the command with the settings of that application'
        return Problem(what, remedy, exit_status=NO_WORKER)
    return no_such_worker(ours) if ours else NOBODY_REPLIED


async def find_workers(redis: ArqRedis, patterns: Sequence[str] | None) -> list[WorkerRecord]:
    """Return the workers that are there; as they reply when one that is meant is not registered."""
    living = await read_living(redis)
    known = [record.worker for record in living]
    # After its Redis was emptied, a worker registers 5 s later.
    if patterns is not None and not set(chosen_workers(patterns, known)) <= set(known):
        return await ask_living(redis)
    return living
