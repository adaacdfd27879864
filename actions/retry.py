"""Send e-mails again that ended: failed, expired, uncertain, cancelled; by id, or all that fit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actions.emails import (
    Batches,
    Unchanged,
    announce_due,
    change_in_batches,
    idle_problems,
    why_not,
)
from actions.safety import agree, refuse_more
from db import reports, transitions
from db import selection as selections
from db.selection import Selection
from db.states import RETRYABLE
from mail_outbox.wake import notify
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers, answer_or_note
from reporting.wording import counted

WAYS = (*(status.value for status in RETRYABLE), selections.DEAD)  # to be selected for a retry
SAMPLE = 10


@dataclass(frozen=True, slots=True)
class RetryTerms:
    """How e-mails are sent again."""

    expiry_hours: float  # the new life of those that have expired
    queue: str  # where their jobs go


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """What is about to be sent again."""

    emails: int
    matched: int  # how many fit; more than emails when a limit cuts them off
    left: Sequence[int]  # ids that were given and cannot be sent again
    warnings: Sequence[str]  # what the operator should know before


@dataclass(frozen=True, slots=True)
class RetriedIds:
    """What a retry of some ids did, or would do."""

    dry_run: bool
    retried: list[int]
    unchanged: list[Unchanged]
    enqueued: int = 0  # how many got a job; the others are swept
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RetriedSelection:
    """What a retry of all that fits did, or would do."""

    dry_run: bool
    selection: Selection
    matched: int
    counts: list[dict[str, Any]]  # of db.selection.count_selected
    warnings: list[str]
    sample: list[dict[str, Any]] = field(default_factory=list)  # of db.selection.list_selected
    retried: list[int] = field(default_factory=list)
    reached: int = 0  # of those that fit, before the limit or a fault ended it
    problems: list[Problem] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many fit and were not looked at."""
        return max(0, self.matched - self.reached)

    @property
    def passed_over(self) -> int:
        """How many somebody else changed meanwhile, or whose content is deleted."""
        return self.reached - len(self.retried)


async def retry_ids(
    servers: Servers,
    email_ids: Iterable[int],
    terms: RetryTerms,
    *,
    dry_run: bool = False,
    confirm: Callable[[RetryPlan], None] = agree,
) -> RetriedIds:
    """Make these due, wake a worker for each, and say why not for the others.

    Raises:
        ProblemError: PostgreSQL does not answer; nothing was changed.
    """
    ids = list(dict.fromkeys(email_ids))
    reading = partial(reports.read_states, email_ids=ids)
    states = await servers.ask_postgres(reading)
    wanted = [
        i
        for i in ids
        if i in states and states[i]['status'] in RETRYABLE and not states[i]['is_emptied']
    ]
    if dry_run:
        return RetriedIds(True, wanted, _unchanged(ids, states, wanted))
    if wanted:
        left = sorted(set(ids) - set(wanted))
        confirm(RetryPlan(len(wanted), len(wanted), left, _warn_of(states[i] for i in wanted)))
    done = await retry_in_batches(servers, wanted, RETRYABLE, terms)
    if done.problem and not done.changed:
        raise ProblemError(done.problem)
    problems = [done.problem] if done.problem else []
    changed = sorted(done.changed)
    enqueued = await announce_due(servers, changed, terms.queue, problems) if changed else 0
    if len(changed) < len(wanted):  # somebody was faster: the reasons are newer than the states
        states = await servers.ask_postgres(reading)
    problems += await idle_problems(servers, len(changed))
    done_ids = set(changed)
    retried = [i for i in ids if i in done_ids]
    return RetriedIds(False, retried, _unchanged(ids, states, retried), enqueued, problems)


async def retry_selected(
    servers: Servers,
    status: str,
    conditions: MailFilter,
    terms: RetryTerms,
    *,
    limit: int,
    expected: int | None = None,
    dry_run: bool = False,
    confirm: Callable[[RetryPlan], None] = agree,
) -> RetriedSelection:
    """Count what fits, make the oldest due in batches, and wake the workers once.

    Args:
        status: One of WAYS.
        limit: How many at most.
        expected: How many the operator was shown to fit.
    Raises:
        ProblemError: PostgreSQL does not answer; MoreThanExpectedError.
    """
    selection = await make_selection(servers, conditions, (status,))
    counts = await servers.ask_postgres(partial(selections.count_selected, selection=selection))
    matched = sum(row['emails'] for row in counts)
    warnings = warnings_of(counts)
    if dry_run or not matched:
        listing = partial(selections.list_selected, selection=selection, limit=SAMPLE)
        sample = await servers.ask_postgres(listing) if dry_run else []
        return RetriedSelection(dry_run, selection, matched, counts, warnings, sample)
    refuse_more(matched, expected)
    # What was counted is what is changed: the ids are fixed before anybody is asked.
    choosing = partial(selections.select_ids, selection=selection, limit=limit)
    ids = await servers.ask_postgres(choosing)
    confirm(RetryPlan(len(ids), matched, (), warnings))
    states = ('failed',) if status == selections.DEAD else (status,)
    done = await retry_in_batches(servers, ids, states, terms)
    problems = [done.problem] if done.problem else []
    if done.changed:
        await answer_or_note(servers.ask_postgres(notify), problems)
    problems += await idle_problems(servers, len(done.changed))
    return RetriedSelection(
        False, selection, matched, counts, warnings, [], done.changed, done.reached,
        list(dict.fromkeys(problems)),
    )  # fmt: skip


async def retry_in_batches(
    servers: Servers, email_ids: Sequence[int], from_states: Sequence[str], terms: RetryTerms
) -> Batches:
    """Make e-mails due that are still in one of these states."""
    change = partial(transitions.retry, expiry_hours=terms.expiry_hours, from_states=from_states)
    return await change_in_batches(servers, email_ids, change)


def _unchanged(
    ids: Iterable[int], states: Mapping[int, Mapping[str, Any]], done: Sequence[int]
) -> list[Unchanged]:
    done_ids = set(done)
    return [Unchanged(i, why_not(states.get(i))) for i in ids if i not in done_ids]


def _warn_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return warnings_of(
        [{'status': r['status'], 'final_because': r['dead_reason'], 'emails': 1} for r in rows]
    )


# What an operator should know before: a condition on (status, why nothing follows), and what it
# means.
WARNINGS: tuple[tuple[Callable[[str, str | None], bool], str], ...] = (
    (
        lambda status, _: status == 'uncertain',
        '{} that may have been delivered already would arrive twice.',
    ),
    (
        lambda status, because: status == 'failed' and because == 'rejected',
        '{} refused for good: the relay will say the same again.',
    ),
    (
        lambda status, _: status == 'bounced',
        (
            '{} came back: whoever bounced gets no mail while on the suppression list, '
            'and what EMAIL_DROP_CONTENT has deleted stays as it is.'
        ),
    ),
    (
        lambda status, because: status == 'failed' and because == 'poison',
        '{} set aside because workers died sending such mail.',
    ),
)


def warnings_of(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of what a retry may do, counted.

    Args:
        counts: Rows with status, final_because and emails.
    """
    found = [
        (
            sum(row['emails'] for row in counts if concerns(row['status'], row['final_because'])),
            text,
        )
        for concerns, text in WARNINGS
    ]
    return [text.format(counted(emails)) for emails, text in found if emails]
