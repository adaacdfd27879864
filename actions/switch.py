"""Pause and resume what stays so over restarts: queues, relays, e-mail types, duties."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from arq.connections import ArqRedis

from actions.safety import RequestError, agree
from db.switches import (
    SwitchKind,
    count_waiting,
    pause,
    read_duty_names,
    read_email_types,
    read_switches,
    resume,
)
from engine.queues import QUEUES, read_queues
from fleet.registry import WorkerRecord
from reporting.live import read_living
from reporting.servers import Servers, answer_or_note
from reporting.wording import SWITCH_WORDS


class UnknownNameError(RequestError):
    """Nobody knows a queue, relay, e-mail type or duty of this name."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What was paused or resumed, or would be."""

    pausing: bool
    dry_run: bool
    kind: SwitchKind
    name: str
    already: bool  # it was paused before, and stays as it was
    waiting: int | None  # of an e-mail type: how many e-mails are to be sent
    workers: int | None  # how many will hear of it; None: nobody knows
    changed: bool = False


async def pause_switch(
    servers: Servers,
    kind: SwitchKind,
    name: str,
    *,
    by: str,
    reason: str | None = None,
    configured: Collection[str] = (),
    force: bool = False,
    dry_run: bool = False,
    confirm: Callable[[Switched], None] = agree,
) -> Switched:
    """Pause something for all workers, until it is resumed.

    Args:
        by: Who does it, for those who wonder later; reason: why.
        configured: Names of this kind that the settings know.
        force: Also a name that nobody knows yet.
    Raises:
        UnknownNameError: nobody knows the name.
        ProblemError: PostgreSQL does not answer.
    """
    paused = await _paused_names(servers, kind)
    workers = await _living(servers)
    if not force:
        known = await known_names(servers, kind, workers, configured)
        refuse_unknown(kind, name, known | paused)
    plan = await _plan(servers, kind, name, workers, pausing=True, dry_run=dry_run)
    if name in paused:
        return replace(plan, already=True)
    if dry_run:
        return plan
    confirm(plan)
    pausing = partial(pause, kind=kind, name=name, reason=reason, by=by)
    return replace(plan, changed=await servers.ask_postgres(pausing))


async def resume_switch(
    servers: Servers,
    kind: SwitchKind,
    name: str,
    *,
    dry_run: bool = False,
    confirm: Callable[[Switched], None] = agree,
) -> Switched:
    """Let something run again.

    Raises:
        UnknownNameError: it is not paused.
        ProblemError: PostgreSQL does not answer.
    """
    paused = await _paused_names(servers, kind)
    workers = await _living(servers)
    if name not in paused:
        refuse_unknown(kind, name, paused, 'is paused')
    plan = await _plan(servers, kind, name, workers, pausing=False, dry_run=dry_run)
    if dry_run:
        return plan
    confirm(plan)
    resuming = partial(resume, kind=kind, name=name)
    return replace(plan, changed=await servers.ask_postgres(resuming))


async def _plan(
    servers: Servers,
    kind: SwitchKind,
    name: str,
    workers: Sequence[WorkerRecord] | None,
    *,
    pausing: bool,
    dry_run: bool,
) -> Switched:
    waiting = None
    if kind is SwitchKind.EMAIL_TYPE:
        waiting = await servers.ask_postgres(partial(count_waiting, email_type=name))
    hearing = None if workers is None else len(workers)
    return Switched(pausing, dry_run, kind, name, already=False, waiting=waiting, workers=hearing)


def refuse_unknown(
    kind: SwitchKind, name: str, known: Iterable[str], what: str = 'is known'
) -> None:
    """Refuse a name that is not among these.

    Raises:
        UnknownNameError: names the known ones.
    """
    names = sorted(known)
    if name in names:
        return
    listed = f'known: {", ".join(names)}' if names else f'no {SWITCH_WORDS[kind]} {what}'
    more = '; --force takes a name that nobody knows yet' if what == 'is known' else ''
    raise UnknownNameError(f'no {SWITCH_WORDS[kind]} {name!r} {what}', listed + more)


async def known_names(
    servers: Servers,
    kind: SwitchKind,
    workers: Sequence[WorkerRecord] | None,
    configured: Collection[str] = (),
) -> set[str]:
    """Return the names that can be paused, as far as settings, servers and workers know."""
    living = workers or ()
    names = set(configured)
    match kind:
        case SwitchKind.QUEUE:
            queues = await answer_or_note(servers.ask_redis(_queue_names), [])
            return names | {*QUEUES, *(queues or ()), *(worker.queue for worker in living)}
        case SwitchKind.RELAY:
            return names | {str(relay.get('name')) for worker in living for relay in worker.relays}
        case SwitchKind.EMAIL_TYPE:
            return names | {*await servers.ask_postgres(read_email_types)}
        case SwitchKind.CRON:
            names |= {str(duty.get('name')) for worker in living for duty in worker.duties}
            return names | {*await servers.ask_postgres(read_duty_names)}


async def _queue_names(redis: ArqRedis) -> list[str]:
    return [queue.name for queue in await read_queues(redis)]


async def _paused_names(servers: Servers, kind: SwitchKind) -> set[str]:
    return {s.name for s in await servers.ask_postgres(read_switches) if s.kind is kind}


async def _living(servers: Servers) -> list[WorkerRecord] | None:
    """Return the workers; None without Redis, which keeps nobody from pausing."""
    return await answer_or_note(servers.ask_redis(read_living), [])
