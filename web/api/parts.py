"""What handlers work with."""

from dataclasses import dataclass, field

from fastapi import Request

from actions.retry import RetryTerms
from reporting.servers import Servers
from web.api.access import Access


@dataclass(slots=True)
class Api:
    """What handlers get, as request.app.state.api.

    Attributes:
        servers: PostgreSQL for reading and writing, and arq's client: ask_postgres, ask_redis.
        terms: How e-mails are sent again.
    """

    servers: Servers
    terms: RetryTerms
    access: Access = field(init=False)

    def __post_init__(self) -> None:
        self.access = Access(self.servers)

    async def close(self) -> None:
        """Close what was opened."""
        await self.access.tokens.close()
        await self.servers.close()


def api_of(request: Request) -> Api:
    """Return the parts; a dependency of FastAPI."""
    api: Api = request.app.state.api
    return api
