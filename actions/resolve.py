"""Decide about uncertain e-mails: they did arrive, or they are given up; retry sends them again."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from actions.emails import State, Unchanged, why_not
from actions.safety import agree
from actions.selected import Chosen, choose
from db import reports
from db.states import TRIED
from db.transitions import give_up, mark_sent
from reporting.mail_filter import MailFilter
from reporting.servers import Servers

# What each decision does, and which states it applies to.
DECISIONS: Mapping[
    str, tuple[Callable[[asyncpg.Pool, Sequence[int]], Awaitable[list[int]]], tuple[str, ...]]
] = {
    'sent': (mark_sent, ('uncertain',)),
    'failed': (give_up, TRIED),
}
DECIDED_ELSEWHERE = ('held', 'external')


@dataclass(frozen=True, slots=True)
class ResolvePlan:
    """What is about to be decided."""

    emails: int
    left: Sequence[int]  # ids that were given and are in no state that the decision is for


@dataclass(frozen=True, slots=True)
class Resolved:
    """What was decided, or would be."""

    dry_run: bool
    decision: str
    resolved: list[int]
    unchanged: list[Unchanged]


async def resolve_emails(
    servers: Servers,
    email_ids: Iterable[int],
    decision: str,
    *,
    dry_run: bool = False,
    confirm: Callable[[ResolvePlan], None] = agree,
) -> Resolved:
    """Change what can be changed, and say why for the rest.

    Args:
        decision: One of DECISIONS: sent (it arrived) or failed (no further attempt).
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was changed.
    """
    change, from_states = DECISIONS[decision]
    ids = list(dict.fromkeys(email_ids))
    states = await servers.ask_postgres(partial(reports.read_states, email_ids=ids))
    wanted = [i for i in ids if i in states and states[i]['status'] in from_states]
    done = set(wanted)
    if not dry_run and wanted:
        confirm(ResolvePlan(len(wanted), [i for i in ids if i not in done]))
        done = set(await servers.ask_postgres(lambda pool: change(pool, wanted)))
    unchanged = [Unchanged(i, _why_not_resolved(states.get(i))) for i in ids if i not in done]
    return Resolved(dry_run, decision, [i for i in ids if i in done], unchanged)


async def resolve_selected(
    servers: Servers,
    conditions: MailFilter,
    decision: str,
    *,
    limit: int,
    expected: int | None = None,
    dry_run: bool = False,
) -> tuple[Chosen, Resolved]:
    """Decide about all that fit, the oldest first, up to a limit.

    Args:
        decision: One of DECISIONS, which says what states it is for.
        expected: How many the operator was shown to fit.
    Raises:
        ProblemError: PostgreSQL does not answer; MoreThanExpectedError.
    """
    chosen = await choose(
        servers,
        DECISIONS[decision][1],
        conditions,
        limit=limit,
        expected=expected,
        dry_run=dry_run,
    )
    if dry_run:
        return chosen, Resolved(True, decision, [], [])
    return chosen, await resolve_emails(servers, chosen.ids, decision)


def _why_not_resolved(state: State | None) -> str:
    if state is None or state['status'] in DECIDED_ELSEWHERE:
        return why_not(state)
    return f'it is {state["status"]}'
