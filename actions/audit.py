"""Changes that are written down: before they are made, and completed after them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from db.audit import Actor, begin_audit, finish_audit
from reporting.problems import ProblemError
from reporting.servers import Servers


@dataclass(slots=True)
class AuditEntry:
    """What a change turned out to be; its fields are set while it is made."""

    id: int
    email_ids: list[int] = field(default_factory=list)
    problem: str | None = None


@asynccontextmanager
async def audited(
    servers: Servers, actor: Actor, action: str, details: Mapping[str, Any]
) -> AsyncIterator[AuditEntry]:
    """Write a change down around making it.

    Args:
        action: Such as 'email.retry'.
        details: What was asked for, in plain values.
    Raises:
        ProblemError: PostgreSQL does not answer. From the beginning: nothing was changed. From the
            end: it was made, and its entry stays without finished_at.
    """
    entry = AuditEntry(
        await servers.ask_postgres(
            partial(begin_audit, actor=actor, action=action, details=details)
        )
    )
    try:
        yield entry
    except ProblemError as error:
        entry.problem = error.problem.what
        if error.problem.service is None:  # else it is away, and would not take this either
            await servers.ask_postgres(partial(_finish, entry=entry))
        raise
    await servers.ask_postgres(partial(_finish, entry=entry))


async def _finish(pool: Any, entry: AuditEntry) -> None:
    await finish_audit(pool, entry.id, entry.email_ids, entry.problem)
