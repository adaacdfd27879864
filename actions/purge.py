"""Cancel e-mails that wait in the outbox, or empty the queues, which the outbox would refill."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from arq.connections import ArqRedis

from actions.safety import RequestError, agree, refuse_more
from db.cancellation import cancel, count_cancellable
from db.selection import Selection
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import QUEUES, QueueState, read_queues
from fleet.queued_jobs import Purged, purge_queue, read_jobs
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import INTERRUPTED, Problem, ProblemError
from reporting.servers import Servers

LOOK_AT = 1000  # jobs of each queue, for those that are about no e-mail
SEE_QUEUES = 'see `python -m ops queue ls`'


@dataclass(frozen=True, slots=True)
class CancelledEmails:
    """What was cancelled, or would be."""

    dry_run: bool
    selection: Selection
    created_until: datetime  # by the database's clock
    emails: int
    final_left: int  # without a further attempt, and left alone because nobody asked for them
    ids: list[int] = field(default_factory=list)  # that were cancelled
    problems: list[Problem] = field(default_factory=list)


async def cancel_emails(
    servers: Servers,
    status: str,
    conditions: MailFilter,
    *,
    older_than_s: float = 0.0,
    with_final: bool = False,
    expected: int | None = None,
    dry_run: bool = False,
    confirm: Callable[[int], None] = agree,
) -> CancelledEmails:
    """Cancel what waits, but never what is being sent.

    Args:
        status: One of db.states.CANCELLABLE.
        older_than_s: Only e-mails created at least so long ago; none that is queued meanwhile.
        with_final: Also failed and uncertain ones that have no further attempt.
        expected: How many the operator was shown to fit.
        confirm: Gets how many are about to be cancelled.
    Raises:
        ProblemError: PostgreSQL does not answer, earlier batches stay cancelled;
            MoreThanExpectedError.
    """
    selection = await make_selection(servers, conditions, (status,))
    counting = partial(
        count_cancellable, selection=selection, older_than_s=older_than_s, with_final=with_final
    )
    found = await servers.ask_postgres(counting)
    final_left = 0 if with_final else found.final
    planned = CancelledEmails(dry_run, selection, found.created_until, found.emails, final_left)
    if dry_run:
        return planned
    refuse_more(found.emails, expected)
    if found.emails:
        confirm(found.emails)
    cancelling = partial(
        cancel, selection=selection, created_until=found.created_until, with_final=with_final,
        go_on=lambda done: servers.progress(done, found.emails),
    )  # fmt: skip
    ids, is_whole = await servers.ask_postgres(cancelling)
    problems = [] if is_whole else [INTERRUPTED]
    return replace(planned, emails=len(ids), ids=ids, problems=problems)


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """Which jobs are about to be removed."""

    jobs: int
    names: Sequence[str]
    other_functions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PurgedQueues:
    """What was removed, or would be. other_functions: see count_other_jobs."""

    dry_run: bool
    other_functions: Mapping[str, int]
    queues: Sequence[Purged] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """How many of all queues."""
        return sum(queue.removed for queue in self.queues)


async def purge_queues(
    servers: Servers,
    name: str | None = None,
    *,
    dry_run: bool = False,
    confirm: Callable[[QueuePlan], None] = agree,
) -> PurgedQueues:
    """Remove jobs that are not running; the mail that they are about stays due.

    Args:
        name: Only this queue; None: all of ours.
    Raises:
        ProblemError: Redis does not answer, or the name is no queue's.
    """
    queues = _chosen(await servers.ask_redis(read_queues), name)
    names = [queue.name for queue in queues]
    others = await servers.ask_redis(partial(count_other_jobs, names=names))
    if dry_run:
        would = [Purged(q.name, q.ready + q.deferred, q.running) for q in queues]
        return PurgedQueues(True, others, would)
    waiting = sum(queue.ready + queue.deferred for queue in queues)
    if waiting:
        confirm(QueuePlan(waiting, names, others))
    is_whole = True

    def go_on(done: int) -> bool:
        nonlocal is_whole
        is_whole = servers.progress(done, waiting)
        return is_whole

    purged = await servers.ask_redis(partial(_purge_all, names=names, go_on=go_on))
    return PurgedQueues(False, others, purged, [] if is_whole else [INTERRUPTED])


async def count_other_jobs(redis: ArqRedis, names: Sequence[str]) -> dict[str, int]:
    """Count by function the jobs that no sweep of the outbox brings back.

    Only the first LOOK_AT jobs of each queue are looked at.
    """
    jobs = await read_jobs(redis, list(names), LOOK_AT)
    return dict(
        Counter(
            job.function or 'unreadable'
            for job in jobs
            if job.state != 'running' and job.function not in EMAIL_JOBS
        )
    )


def _chosen(queues: Sequence[QueueState], name: str | None) -> list[QueueState]:
    """Return the queues to purge: ours, or the named one if it is a queue."""
    names = QUEUES if name is None else (name,)
    found = [queue for queue in queues if queue.name in names]
    if not found:
        raise RequestError(f'{name!r} is no queue', SEE_QUEUES)
    if name is not None and found[0].problem:
        raise ProblemError(Problem(found[0].problem, SEE_QUEUES))
    return [queue for queue in found if not queue.problem]


async def _purge_all(
    redis: ArqRedis, names: Sequence[str], go_on: Callable[[int], bool]
) -> list[Purged]:
    done: list[Purged] = []
    for name in names:
        before = sum(queue.removed for queue in done)
        done.append(await purge_queue(redis, name, lambda removed, n=before: go_on(n + removed)))  # type: ignore[misc]
    return done
