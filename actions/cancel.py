"""Cancel e-mails that wait or have failed, so that they are never sent: by id, or all that fit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from actions.emails import State, Unchanged, change_in_batches, why_not
from actions.safety import agree
from actions.selected import Chosen, choose
from db import reports
from db.cancellation import cancel_these
from db.states import CANCELLABLE, OVER_UNSENT
from reporting.mail_filter import MailFilter
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers


@dataclass(frozen=True, slots=True)
class CancelledIds:
    """What was cancelled, or would be."""

    dry_run: bool
    cancelled: list[int]
    unchanged: list[Unchanged]
    problems: list[Problem] = field(default_factory=list)  # what ended it early


async def cancel_ids(
    servers: Servers,
    email_ids: Iterable[int],
    *,
    dry_run: bool = False,
    confirm: Callable[[Sequence[int]], None] = agree,
) -> CancelledIds:
    """Cancel these, but never what is being sent, and say why not for the others.

    Args:
        confirm: Gets the ids that are about to be cancelled.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was changed.
    """
    ids = list(dict.fromkeys(email_ids))
    reading = partial(reports.read_states, email_ids=ids)
    states = await servers.ask_postgres(reading)
    wanted = [i for i in ids if i in states and states[i]['status'] in CANCELLABLE]
    done = set(wanted)
    problems: list[Problem] = []
    if not dry_run and wanted:
        confirm(wanted)
        batches = await change_in_batches(servers, wanted, cancel_these)
        done = set(batches.changed)
        if batches.problem and not done:
            raise ProblemError(batches.problem)
        problems = [batches.problem] if batches.problem else []
        if len(done) < len(wanted):  # somebody was faster: the reasons are newer than the states
            states = await servers.ask_postgres(reading)
    unchanged = [Unchanged(i, _why_not_cancelled(states.get(i))) for i in ids if i not in done]
    return CancelledIds(dry_run, [i for i in ids if i in done], unchanged, problems)


async def cancel_selected(
    servers: Servers,
    statuses: Sequence[str],
    conditions: MailFilter,
    *,
    limit: int,
    expected: int | None = None,
    dry_run: bool = False,
) -> tuple[Chosen, CancelledIds]:
    """Cancel all that fit, the oldest first, up to a limit.

    Args:
        statuses: Of CANCELLABLE, or 'dead'.
        expected: How many the operator was shown to fit.
    Raises:
        ProblemError: PostgreSQL does not answer; MoreThanExpectedError.
    """
    chosen = await choose(
        servers, statuses, conditions, limit=limit, expected=expected, dry_run=dry_run
    )
    if dry_run:
        return chosen, CancelledIds(True, [], [])
    return chosen, await cancel_ids(servers, chosen.ids)


def _why_not_cancelled(state: State | None) -> str:
    if state is not None and state['status'] in OVER_UNSENT:
        return f'it is {state["status"]} already'
    return why_not(state)
