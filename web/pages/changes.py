"""Changes that people ask for at the desk: done once each, also when the browser goes away.

A form carries a key; the audit's entry of the change has it, so the second of a double click finds
the first one's entry. A long change goes on after the answer, and its page tells how far it is.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from actions.audit import AuditEntry, DoneBeforeError, audited
from actions.decide import Carried
from db.audit import Actor
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers

log = structlog.get_logger()

ANSWERED_AFTER_S = 2.0  # a change that takes longer is looked at while it goes on
MOST_REMEMBERED = 500
CLOSE_S = 2.0  # a stop waits for no long change: its entry says that it was cut off


@dataclass(slots=True)
class ChangeUnderWay:
    """How far a change is, as this process knows."""

    total: int
    changed: int = 0
    unchanged: list[tuple[int, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    is_over: bool = False

    def note(self, done: Carried) -> None:
        """Count what was done."""
        self.changed += len(done.changed)
        self.unchanged += [(email.id, email.reason) for email in done.unchanged]
        self.problems = list(dict.fromkeys([*self.problems, *done.problems]))

    @property
    def reached(self) -> int:
        """How many were looked at."""
        return self.changed + len(self.unchanged)


MakeChange = Callable[[AuditEntry, ChangeUnderWay], Awaitable[None]]


class Changes:
    """Begins changes, and knows those that this process made lately."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: OrderedDict[int, ChangeUnderWay] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, entry_id: int) -> ChangeUnderWay | None:
        """Return what is known of a change; None of another process's, or an old one."""
        return self._known.get(entry_id)

    async def make(
        self,
        actor: Actor,
        action: str,
        details: Mapping[str, Any],
        request_key: str,
        make: MakeChange,
        *,
        total: int = 1,
    ) -> int:
        """Make a change, and wait a little for its end.

        Args:
            make: Does it, and tells the entry and the progress what was done.
            total: How many e-mails it is about.
        Returns:
            The audit's entry; of a request that was here before, that one's.
        Raises:
            ProblemError: nothing was changed.
        """
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self._make(actor, action, details, request_key, make, total, begun)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=ANSWERED_AFTER_S)
        return await begun

    async def _make(
        self,
        actor: Actor,
        action: str,
        details: Mapping[str, Any],
        request_key: str,
        make: MakeChange,
        total: int,
        begun: asyncio.Future[int],
    ) -> None:
        progress = ChangeUnderWay(total)
        try:
            async with audited(self._servers, actor, action, details, request_key) as entry:
                self._remember(entry.id, progress)
                begun.set_result(entry.id)
                try:
                    await make(entry, progress)
                except ProblemError as error:
                    progress.problems.append(error.problem)
                    raise
        except DoneBeforeError as error:
            begun.set_result(error.entry_id or 0)
        except ProblemError as error:  # the entry and the change's page tell it
            if not begun.done():
                begun.set_exception(error)
        except Exception as error:
            log.exception('web.change_failed', action=action)
            if not begun.done():
                begun.set_exception(error)
        finally:
            progress.is_over = True

    def _remember(self, entry_id: int, progress: ChangeUnderWay) -> None:
        self._known[entry_id] = progress
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Let what is under way end, for a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
