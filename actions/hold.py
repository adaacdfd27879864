"""Hold e-mails that wait for an attempt: nobody sends them until they are released."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from actions.emails import State, Unchanged, change_in_batches, why_not
from db import reports
from db.held import HOLDABLE, hold
from mail_outbox.states import Status
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers


@dataclass(frozen=True, slots=True)
class HeldIds:
    """What was held."""

    held: list[int]
    unchanged: list[Unchanged]
    problems: list[Problem] = field(default_factory=list)  # what ended it early


async def hold_ids(servers: Servers, email_ids: Iterable[int]) -> HeldIds:
    """Hold these, and say why not for the others.

    Raises:
        ProblemError: PostgreSQL does not answer; nothing was changed.
    """
    ids = list(dict.fromkeys(email_ids))
    batches = await change_in_batches(servers, ids, hold)
    if batches.problem and not batches.changed:
        raise ProblemError(batches.problem)
    done = set(batches.changed)
    left = [i for i in ids if i not in done]
    reading = partial(reports.read_states, email_ids=left)
    states = await servers.ask_postgres(reading) if left else {}
    unchanged = [Unchanged(i, _why_not_held_back(states.get(i))) for i in left]
    problems = [batches.problem] if batches.problem else []
    return HeldIds([i for i in ids if i in done], unchanged, problems)


def _why_not_held_back(state: State | None) -> str:
    if state is None:
        return why_not(state)
    match state['status']:
        case Status.HELD:
            return 'it is held already'
        case Status.UNCERTAIN:
            return 'it may have been delivered: decide that first'
        case status if status in HOLDABLE:
            return 'no attempt follows that could be held back'
        case Status.SENDING | Status.SENT | Status.BOUNCED | Status.COMPLAINED | Status.EXTERNAL:
            return why_not(state)
        case status:
            return f'it is {status} already'
