"""Changes that are written down: before they are made, and completed after them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from db.audit import Actor, begin_audit, entry_of_request, finish_audit
from reporting.problems import ProblemError
from reporting.servers import Servers


@dataclass(slots=True)
class AuditEntry:
    """What a change turned out to be; its fields are set while it is made."""

    id: int
    email_ids: list[int] = field(default_factory=list)
    problem: str | None = None


class DoneBeforeError(Exception):
    """The same request was here before: its entry is the answer."""

    def __init__(self, entry_id: int | None) -> None:
        super().__init__(entry_id)
        self.entry_id = entry_id


@asynccontextmanager
async def audited(
    servers: Servers,
    actor: Actor,
    action: str,
    details: Mapping[str, Any],
    request_key: str | None = None,
) -> AsyncIterator[AuditEntry]:
    """Write a change down around making it.

    Args:
        action: Such as 'email.retry'.
        details: What was asked for, in plain values.
        request_key: Of a request that may come twice; None: each is another one.
    Raises:
        DoneBeforeError: this request was here already; nothing is changed.
        ProblemError: PostgreSQL does not answer. From the beginning: nothing was changed. From the
            end: it was made, and its entry stays without finished_at.
    """
    beginning = partial(
        begin_audit, actor=actor, action=action, details=details, request_key=request_key
    )
    entry_id = await servers.ask_postgres(beginning)
    if entry_id is None:
        finding = partial(entry_of_request, request_key=request_key or '')
        raise DoneBeforeError(await servers.ask_postgres(finding))
    entry = AuditEntry(entry_id)
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
