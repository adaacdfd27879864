"""What `celery_app.control.inspect()` gave, from Python: no subprocess and no HTTP.

    async with Inspect('postgresql://app@localhost/app', 'redis://localhost:6379/1') as inspect:
        active = await inspect.active()
        print([email['id'] for email in active.document['emails'] or ()])

Each word answers as `python -m ops inspect WORD --json` does. A server that does not answer is
among the problems, and what it knows is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from reporting.inspection import READERS, Inspection, inspect_workers
from reporting.live import Audience
from reporting.problems import Document, Problem
from reporting.servers import ServerAddresses, Servers


@dataclass(frozen=True, slots=True)
class InspectAnswer:
    """What a word answers.

    Attributes:
        document: inspect (the word), workers, queues, and the word's own parts.
        problems: What is wrong, and what to do about it; empty when all is well.
    """

    document: Document
    problems: list[Problem]


class Inspect:
    """Asks the workers, PostgreSQL and Redis; one after the other, connections are kept."""

    def __init__(
        self,
        postgres_dsn: str,
        redis_url: str,
        *,
        destination: Sequence[str] | None = None,
        timeout_s: float = 2.0,
        limit: int = 100,
    ) -> None:
        """Connect to nothing yet.

        Args:
            destination: Names of workers, where * stands for anything; None: all.
            timeout_s: How long replies are waited for.
            limit: E-mails and jobs at most.
        """
        self._servers = Servers(ServerAddresses(postgres_dsn, redis_url))
        self._audience = Audience(destination, timeout_s)
        self._limit = limit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        await self._servers.close()

    async def ask(self, word: str, jobs: Sequence[str] = ()) -> InspectAnswer:
        """Answer any word of reporting.inspection.READERS.

        Raises:
            ValueError: there is no such word.
        """
        if word not in READERS:
            raise ValueError(f'{word!r} is none of {", ".join(READERS)}')
        asked = Inspection(word, self._audience, self._limit, jobs)
        return InspectAnswer(*await inspect_workers(self._servers, asked))

    async def ping(self) -> InspectAnswer:
        """Say who is alive: replies."""
        return await self.ask('ping')

    async def active(self) -> InspectAnswer:
        """Say what is being sent, by whom and how far it is: emails, jobs."""
        return await self.ask('active')

    async def scheduled(self) -> InspectAnswer:
        """Say what is due later: total, emails, jobs."""
        return await self.ask('scheduled')

    async def reserved(self) -> InspectAnswer:
        """Say what was taken and not begun: jobs."""
        return await self.ask('reserved')

    async def stats(self) -> InspectAnswer:
        """Count attempts and their outcomes: hour, day, by_worker."""
        return await self.ask('stats')

    async def registered(self) -> InspectAnswer:
        """Say which jobs and duties the workers know."""
        return await self.ask('registered')

    async def active_queues(self) -> InspectAnswer:
        """Say who serves which queue."""
        return await self.ask('active_queues')

    async def query_task(self, *job_ids: str) -> InspectAnswer:
        """Say where these jobs are, and what became of them: jobs."""
        return await self.ask('query_task', job_ids)
