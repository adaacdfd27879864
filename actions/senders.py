"""Let addresses and whole domains stand in From, and take that back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from actions.safety import agree
from db import senders
from reporting.servers import Servers


@dataclass(frozen=True, slots=True)
class SendersAllowed:
    """What may stand in From now, or would."""

    dry_run: bool
    added: Sequence[str]
    known: Sequence[str]  # might do so before


async def allow(
    servers: Servers,
    patterns: Iterable[str],
    *,
    organization_id: str | None = None,
    created_by: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Sequence[str]], None] = agree,
) -> SendersAllowed:
    """Add patterns to the list.

    Args:
        patterns: From db.senders.sender_pattern.
        organization_id: The only one whose e-mails may use them; None: all may.
        confirm: Gets the patterns that are new.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was added.
    """
    wanted = list(dict.fromkeys(patterns))
    listed = await servers.ask_postgres(
        partial(senders.listed_senders, patterns=wanted, organization_id=organization_id)
    )
    new = [pattern for pattern in wanted if pattern not in listed]
    if new and not dry_run:
        confirm(new)
        adding = partial(
            senders.allow_senders,
            patterns=new,
            organization_id=organization_id,
            created_by=created_by,
        )
        done = await servers.ask_postgres(adding)
        new = [pattern for pattern in new if pattern in done]
    return SendersAllowed(dry_run, new, [pattern for pattern in wanted if pattern not in new])


@dataclass(frozen=True, slots=True)
class SendersDisallowed:
    """What may not stand in From any more, or would not, and what was not on the list."""

    dry_run: bool
    removed: Sequence[str]
    missing: Sequence[str]


async def disallow(
    servers: Servers,
    patterns: Iterable[str],
    *,
    organization_id: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Sequence[str]], None] = agree,
) -> SendersDisallowed:
    """Take patterns off the list; what waits and is from one of them will not be sent.

    Args:
        organization_id: Off its list; None: off everybody's.
        confirm: Gets the patterns that are on the list.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was removed.
    """
    wanted = list(dict.fromkeys(patterns))
    listed = await servers.ask_postgres(
        partial(senders.listed_senders, patterns=wanted, organization_id=organization_id)
    )
    done = [pattern for pattern in wanted if pattern in listed]
    if done and not dry_run:
        confirm(done)
        removed = await servers.ask_postgres(
            partial(senders.disallow_senders, patterns=done, organization_id=organization_id)
        )
        done = [pattern for pattern in done if pattern in removed]
    return SendersDisallowed(dry_run, done, [p for p in wanted if p not in done])
