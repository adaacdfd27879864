"""Which e-mails fit some conditions, before something is done with all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actions.safety import refuse_more
from db import selection as selections
from db.selection import Selection
from reporting.mail_filter import MailFilter, make_selection
from reporting.servers import Servers

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Chosen:
    """What fits: how many, and the oldest of them."""

    selection: Selection
    matched: int
    ids: list[int] = field(default_factory=list)  # to be changed; none of a dry run
    sample: list[dict[str, Any]] = field(default_factory=list)  # of db.selection.list_selected

    @property
    def left(self) -> int:
        """How many fit beyond the limit."""
        return max(0, self.matched - len(self.ids))


async def choose(
    servers: Servers,
    statuses: Sequence[str],
    conditions: MailFilter,
    *,
    limit: int,
    expected: int | None,
    dry_run: bool,
) -> Chosen:
    """Count what fits, and fix the ids of what is about to be changed.

    Args:
        limit: How many ids at most.
        expected: How many the operator was shown to fit.
    Raises:
        ProblemError: PostgreSQL does not answer; MoreThanExpectedError.
    """
    selection = await make_selection(servers, conditions, tuple(statuses))
    counts = await servers.ask_postgres(partial(selections.count_selected, selection=selection))
    matched = sum(row['emails'] for row in counts)
    if dry_run:
        listing = partial(selections.list_selected, selection=selection, limit=SHOWN)
        return Chosen(selection, matched, sample=await servers.ask_postgres(listing))
    refuse_more(matched, expected)
    choosing = partial(selections.select_ids, selection=selection, limit=limit)
    return Chosen(selection, matched, await servers.ask_postgres(choosing))
