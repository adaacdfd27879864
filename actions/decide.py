"""What an operator may decide about many e-mails: one table for whoever shows a choice.

A decision is planned (how many, what happens, what to know before), and carried out about the ids
that the plan fixed, in pieces, so that whoever waits sees how far it is.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

from actions.cancel import cancel_ids
from actions.emails import BATCH, Unchanged
from actions.held import HeldDecision, decide_held_ids
from actions.hold import hold_ids
from actions.resolve import resolve_emails
from actions.retry import RetryTerms, retry_ids, warnings_of
from db import selection as selections
from db.email_list import list_these
from db.held import HOLDABLE
from db.selection import DEAD, RETRYING, Selection
from db.states import CANCELLABLE, RETRYABLE, TRIED
from mail_outbox.states import Status
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers

MOST_AT_ONCE = 50_000
SHOWN = 10
LOOKED_AT = 200  # of ids, for those that are shown


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of some e-mails."""

    changed: Sequence[int] = ()
    unchanged: Sequence[Unchanged] = ()
    problems: Sequence[Problem] = ()


CarryOut = Callable[[Servers, Sequence[int], RetryTerms], Awaitable[Carried]]


async def _retry(servers: Servers, ids: Sequence[int], terms: RetryTerms) -> Carried:
    done = await retry_ids(servers, ids, terms)
    return Carried(done.retried, done.unchanged, done.problems)


async def _cancel(servers: Servers, ids: Sequence[int], _: RetryTerms) -> Carried:
    done = await cancel_ids(servers, ids)
    return Carried(done.cancelled, done.unchanged, done.problems)


async def _hold(servers: Servers, ids: Sequence[int], _: RetryTerms) -> Carried:
    done = await hold_ids(servers, ids)
    return Carried(done.held, done.unchanged, done.problems)


async def _release(servers: Servers, ids: Sequence[int], terms: RetryTerms) -> Carried:
    done = await decide_held_ids(
        servers, ids, HeldDecision.RELEASE, expiry_hours=terms.expiry_hours
    )
    problems = [*done.problems, *([done.fault] if done.fault else [])]
    return Carried(done.ids, done.unchanged, problems)


async def _resolve(servers: Servers, ids: Sequence[int], _: RetryTerms, decision: str) -> Carried:
    done = await resolve_emails(servers, ids, decision)
    return Carried(done.resolved, done.unchanged)


class MailDecision(StrEnum):
    """What is decided."""

    RETRY = 'retry'
    CANCEL = 'cancel'
    HOLD = 'hold'
    RELEASE = 'release'
    SENT = 'sent'
    GIVE_UP = 'give-up'


@dataclass(frozen=True, slots=True)
class DecisionKind:
    """One row of the table.

    Attributes:
        statuses: What it is for; e-mails in other states are left as they are.
        audit: Its name in mail_audit.
        without_dead: Of failed ones, it is for those that an attempt follows.
        takes_back: What undoes it, about the same e-mails.
    """

    statuses: tuple[Status, ...]
    audit: str
    carry_out: CarryOut
    takes_back: MailDecision | None = None
    without_dead: bool = False

    def concerns(self, status: str, *, is_final: bool) -> bool:
        """Whether it is for an e-mail in this state."""
        is_dead = status == Status.FAILED and is_final
        return status in self.statuses and not (self.without_dead and is_dead)


DECISION_KINDS: Mapping[MailDecision, DecisionKind] = {
    MailDecision.RETRY: DecisionKind(RETRYABLE, 'email.retry', _retry, MailDecision.HOLD),
    MailDecision.CANCEL: DecisionKind(CANCELLABLE, 'email.cancel', _cancel, MailDecision.RETRY),
    MailDecision.HOLD: DecisionKind(
        HOLDABLE, 'email.hold', _hold, MailDecision.RELEASE, without_dead=True
    ),
    MailDecision.RELEASE: DecisionKind(
        (Status.HELD,), 'email.release', _release, MailDecision.HOLD
    ),
    MailDecision.SENT: DecisionKind(
        (Status.UNCERTAIN,), 'email.resolve', partial(_resolve, decision='sent')
    ),
    MailDecision.GIVE_UP: DecisionKind(
        TRIED,
        'email.resolve',
        partial(_resolve, decision='failed'),
        MailDecision.RETRY,
        without_dead=True,
    ),
}


@dataclass(frozen=True, slots=True)
class DecisionPlan:
    """What a decision would do.

    Attributes:
        matched: How many are meant.
        concerned: Of these, how many are in a state that the decision is for.
        counts: status, final_because, emails, as db.selection.count_selected has them.
        sample: Some of those concerned, see db.email_list.
        warnings: What the operator should know before.
    """

    matched: int
    concerned: int
    counts: list[dict[str, Any]]
    sample: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


async def plan_about_ids(
    servers: Servers,
    decision: MailDecision,
    email_ids: Sequence[int],
    organization_id: str | None,
) -> DecisionPlan:
    """Say what a decision about these would do; those of other organisations are not there.

    Raises:
        ProblemError: PostgreSQL does not answer.
    """
    counting = partial(selections.count_these, email_ids=email_ids, organization_id=organization_id)
    counts = await servers.ask_postgres(counting)
    listing = partial(list_these, email_ids=email_ids[:LOOKED_AT], organization_id=organization_id)
    emails = await servers.ask_postgres(listing)
    kind = DECISION_KINDS[decision]
    sample = [e for e in emails if kind.concerns(e['status'], is_final=e['is_final'])]
    return _plan(decision, counts, sample[:SHOWN])


async def plan_about_all(
    servers: Servers,
    decision: MailDecision,
    conditions: MailFilter,
    statuses: Sequence[str] | None,
) -> DecisionPlan:
    """Say what a decision about all that fit would do.

    Args:
        statuses: Of Status, or 'dead'; None: any.
    Raises:
        ProblemError: PostgreSQL does not answer, or not in time.
    """
    selection = await make_selection(servers, conditions, tuple(statuses) if statuses else None)
    counts = await servers.ask_postgres(partial(selections.count_selected, selection=selection))
    ids = await servers.ask_postgres(
        partial(selections.select_ids, selection=_concerned(selection, decision), limit=SHOWN)
    )
    listing = partial(list_these, email_ids=ids, organization_id=conditions.organization_id)
    return _plan(decision, counts, await servers.ask_postgres(listing))


def _plan(
    decision: MailDecision, counts: list[dict[str, Any]], sample: list[dict[str, Any]]
) -> DecisionPlan:
    kind = DECISION_KINDS[decision]
    concerned = [
        row
        for row in counts
        if kind.concerns(row['status'], is_final=row['final_because'] is not None)
    ]
    return DecisionPlan(
        matched=sum(row['emails'] for row in counts),
        concerned=sum(row['emails'] for row in concerned),
        counts=counts,
        sample=sample,
        warnings=warnings_of(concerned) if decision is MailDecision.RETRY else [],
    )


def _concerned(selection: Selection, decision: MailDecision) -> Selection:
    """Leave out what is in no state for the decision."""
    kind = DECISION_KINDS[decision]
    concerned: set[str] = set(kind.statuses)
    if Status.FAILED in concerned:
        concerned |= {RETRYING} if kind.without_dead else {RETRYING, DEAD}
        concerned -= {Status.FAILED}
    wanted = set(selection.statuses or concerned)
    if Status.FAILED in wanted:
        wanted |= {RETRYING, DEAD}
    return selection.with_statuses(tuple(sorted(wanted & concerned)))


async def choose_all(
    servers: Servers,
    decision: MailDecision,
    conditions: MailFilter,
    statuses: Sequence[str] | None,
) -> list[int]:
    """Return the ids of what a decision about all that fit is about, the oldest first.

    Raises:
        ProblemError: PostgreSQL does not answer.
    """
    selection = await make_selection(servers, conditions, tuple(statuses) if statuses else None)
    choosing = partial(
        selections.select_ids,
        selection=_concerned(selection, decision),
        limit=MOST_AT_ONCE + 1,
    )
    return await servers.ask_postgres(choosing)


async def carry_out(
    servers: Servers,
    decision: MailDecision,
    email_ids: Sequence[int],
    terms: RetryTerms,
    *,
    on_progress: Callable[[Carried], None],
) -> None:
    """Do it in pieces, each committed by itself; what was done is told after each.

    Raises:
        ProblemError: it ended early; what was told was done.
    """
    kind = DECISION_KINDS[decision]
    for start in range(0, len(email_ids), BATCH):
        done = await kind.carry_out(servers, email_ids[start : start + BATCH], terms)
        on_progress(done)
        if fault := next((p for p in done.problems if p.service), None):
            raise ProblemError(fault)
