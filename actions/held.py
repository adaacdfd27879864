"""Release e-mails that are held, so that they are sent, or cancel them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from actions.emails import (
    BATCH,
    Change,
    State,
    Unchanged,
    change_in_batches,
    idle_problems,
    why_not,
)
from actions.safety import agree, refuse_more
from db import held, reports
from db.selection import Selection
from db.states import RETRYABLE
from mail_outbox.states import Status
from mail_outbox.wake import notify
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers, answer_or_note


class HeldDecision(StrEnum):
    """What becomes of e-mails that are held."""

    RELEASE = 'release'  # they are due now
    CANCEL = 'cancel'  # they are never sent


@dataclass(frozen=True, slots=True)
class HeldPlan:
    """What is about to be decided."""

    decision: HeldDecision
    emails: int
    left: Sequence[int] = ()  # ids that were given and are not held


@dataclass(frozen=True, slots=True)
class DecidedHeld:
    """What was decided, or would be. changed is None for a dry run."""

    decision: HeldDecision
    matched: int
    changed: int | None = None
    fault: Problem | None = None  # what ended it early; what was changed stays so
    problems: list[Problem] = field(default_factory=list)  # nobody sends what was released
    ids: list[int] = field(default_factory=list)  # that were changed, or of given ones would be
    # Of ids that were given: the others.
    unchanged: list[Unchanged] = field(default_factory=list)
    # Of a selection: what it was, and the counts of db.held.count_held.
    selection: Selection | None = None
    by_type: list[dict[str, Any]] = field(default_factory=list)


async def decide_held_ids(
    servers: Servers,
    email_ids: Iterable[int],
    decision: HeldDecision,
    *,
    expiry_hours: float,
    dry_run: bool = False,
    confirm: Callable[[HeldPlan], None] = agree,
) -> DecidedHeld:
    """Change these, and say why not for the others.

    Args:
        expiry_hours: The new life of released ones that have expired.
    Raises:
        ProblemError: PostgreSQL does not answer.
    """
    ids = list(dict.fromkeys(email_ids))
    reading = partial(reports.read_states, email_ids=ids)
    states = await servers.ask_postgres(reading)
    wanted = [i for i in ids if i in states and states[i]['status'] == Status.HELD]
    done = set(wanted)
    decided = DecidedHeld(decision, len(wanted))
    if not dry_run:
        if wanted:
            confirm(HeldPlan(decision, len(wanted), [i for i in ids if i not in done]))
        batches = await change_in_batches(servers, wanted, _change(decision, expiry_hours))
        done = set(batches.changed)
        decided = replace(decided, changed=len(done), fault=batches.problem)
    if len(done) < len(wanted):  # somebody was faster: the reasons are newer than the states
        states = await servers.ask_postgres(reading)
    decided = replace(
        decided,
        ids=[i for i in ids if i in done],
        unchanged=[Unchanged(i, _why_not_held(states.get(i))) for i in ids if i not in done],
    )
    return await _woken(servers, decided)


async def decide_held_selected(
    servers: Servers,
    conditions: MailFilter,
    decision: HeldDecision,
    *,
    expiry_hours: float,
    expected: int | None = None,
    dry_run: bool = False,
    confirm: Callable[[HeldPlan], None] = agree,
) -> DecidedHeld:
    """Count what fits, and change it in batches, each committed by itself.

    Args:
        conditions: Empty for everything that is held.
        expected: How many the operator was shown to fit.
    Raises:
        ProblemError: PostgreSQL does not answer; MoreThanExpectedError.
    """
    selection = await make_selection(servers, conditions, (Status.HELD,))
    counting = partial(held.count_held, selection=selection)
    by_type = await servers.ask_postgres(counting)
    matched = sum(row['emails'] for row in by_type)
    decided = DecidedHeld(decision, matched, selection=selection, by_type=by_type)
    if dry_run:
        return decided
    refuse_more(matched, expected)
    if not matched:
        return replace(decided, changed=0)
    confirm(HeldPlan(decision, matched))
    # A take-over may have held more while the question stood: nobody was asked about those.
    refuse_more(sum(row['emails'] for row in await servers.ask_postgres(counting)), matched)
    change = _change(decision, expiry_hours)
    ids, fault = await _change_selected(servers, selection, change, matched)
    return await _woken(servers, replace(decided, changed=len(ids), ids=ids, fault=fault))


async def _change_selected(
    servers: Servers, selection: Selection, change: Change, total: int
) -> tuple[list[int], Problem | None]:
    """Change everything that fits, in the order of ids, so that no row is looked at twice.

    Returns:
        What was changed, and what ended it early.
    """
    changed: list[int] = []
    last_id = reached = 0
    while True:
        asking = partial(held.next_held, selection=selection, after_id=last_id, limit=BATCH)
        try:
            ids = await servers.ask_postgres(asking)
        except ProblemError as error:
            return changed, error.problem
        if not ids:
            return changed, None
        batches = await change_in_batches(servers, ids, change, before=reached, total=total)
        changed += batches.changed
        reached += batches.reached
        last_id = ids[-1]
        if batches.problem:
            return changed, batches.problem


async def _woken(servers: Servers, decided: DecidedHeld) -> DecidedHeld:
    """Wake the workers for what was released."""
    if decided.decision is not HeldDecision.RELEASE or not decided.changed:
        return decided
    problems: list[Problem] = []
    await answer_or_note(servers.ask_postgres(notify), problems)
    problems += await idle_problems(servers, decided.changed)
    return replace(decided, problems=problems)


def _change(decision: HeldDecision, expiry_hours: float) -> Change:
    if decision is HeldDecision.CANCEL:
        return held.cancel_held
    return partial(held.release, expiry_hours=expiry_hours)


def _why_not_held(state: State | None) -> str:
    if state is not None and state['status'] in RETRYABLE:
        return f'it is not held, but {state["status"]}: see `python -m ops explain {state["id"]}`'
    return why_not(state)
