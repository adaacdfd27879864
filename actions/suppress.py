"""Put addresses and whole domains on the list of those who get no mail, and take them off."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from actions.safety import agree
from db import suppressions
from db.selection import read_clock
from reporting.servers import Servers

LONGEST_S = 10**9  # what is asked for as 999999999d has no date


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What was put on the list, or would be."""

    dry_run: bool
    keys: Sequence[str]
    expires_at: datetime | None  # None: for good
    added: Sequence[str] = field(default_factory=list)
    changed: Sequence[str] = field(default_factory=list)  # were there, and have a new reason now


async def suppress_addresses(
    servers: Servers,
    keys: Iterable[str],
    reason: str,
    *,
    source: str = 'operator',
    created_by: str | None = None,
    for_s: float | None = None,
    email_type: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Sequence[str]], None] = agree,
) -> Suppressed:
    """Add entries, or give those that are there a new reason and a new end.

    Args:
        keys: From db.suppressions.suppression_key.
        for_s: For how long; None: for good.
        email_type: They get no mail of this type; None: none at all.
        confirm: Gets the keys.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was added.
    """
    wanted = list(dict.fromkeys(keys))
    expires_at = None
    if for_s is not None:
        now = await servers.ask_postgres(read_clock)
        expires_at = now + timedelta(seconds=min(for_s, LONGEST_S))
    if dry_run:
        return Suppressed(True, wanted, expires_at)
    confirm(wanted)
    adding = partial(
        suppressions.add,
        keys=wanted,
        reason=reason,
        source=source,
        created_by=created_by,
        expires_at=expires_at,
        email_type=email_type,
    )
    is_new = await servers.ask_postgres(adding)
    added = [key for key in wanted if is_new.get(key)]
    changed = [key for key in wanted if is_new.get(key) is False]
    return Suppressed(False, wanted, expires_at, added, changed)


@dataclass(frozen=True, slots=True)
class Unsuppressed:
    """What was taken off the list, or would be, and what was not on it."""

    dry_run: bool
    removed: Sequence[str]
    missing: Sequence[str]


async def unsuppress_addresses(
    servers: Servers,
    keys: Iterable[str],
    *,
    email_type: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Sequence[str]], None] = agree,
) -> Unsuppressed:
    """Take entries off the list; e-mails that were not sent stay so.

    Args:
        email_type: Off the list of this type; None: off that of all mail.
        confirm: Gets the keys that are on the list.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was removed.
    """
    wanted = list(dict.fromkeys(keys))
    listed = await servers.ask_postgres(
        partial(suppressions.listed, keys=wanted, email_type=email_type)
    )
    done = [key for key in wanted if key in listed]
    if not dry_run:
        if done:
            confirm(done)
        removed = await servers.ask_postgres(
            partial(suppressions.remove, keys=done, email_type=email_type)
        )
        done = [key for key in wanted if key in removed]
    return Unsuppressed(dry_run, done, [key for key in wanted if key not in done])
