"""The API for tests, in this process: the application, and clients with tokens."""

import contextlib
from typing import Any

import httpx

from actions.retry import RetryTerms
from actions.tokens import ApiScope, create_token
from db.audit import Actor
from mail_outbox.address_fields import Sender
from reporting.servers import ServerAddresses
from tests.conftest import DEADLINE_S
from web.api.parts import Api
from web.api.servers import ApiServers
from web.application import make_application
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

TESTER = Actor('anna', 'tests')
SENDER = Sender('noreply@example.com', 'Example')
ALL_SCOPES = (ApiScope.SEND, ApiScope.READ, ApiScope.OPERATE)


class ApiDesk:
    """An application on real servers; a client for each token."""

    def __init__(
        self, stack: contextlib.AsyncExitStack, addresses: ServerAddresses, deadline_s: float
    ) -> None:
        self._stack = stack
        self._watches = [Watch(addresses, asked) for asked in (OVERVIEW, READINESS)]
        self.api = Api(ApiServers(addresses, deadline_s), RetryTerms(24, 'arq:queue'), SENDER)
        self.app = make_application(*self._watches, token=None, loopback_only=True, api=self.api)

    async def token(self, name: str = 'tests', scopes: Any = ALL_SCOPES, **more: Any) -> str:
        created = await create_token(self.api.servers, name, scopes, by=TESTER, **more)
        return created.token

    async def client(self, token: str | None = None, **more: Any) -> httpx.AsyncClient:
        headers = {'Authorization': f'Bearer {token}'} if token else {}
        return await self._stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app, **more),
                base_url='http://localhost',
                headers=headers,
                timeout=DEADLINE_S,
            )
        )

    async def close(self) -> None:
        for watch in self._watches:
            await watch.close()
        await self.api.close()


@contextlib.asynccontextmanager
async def open_desk(env: dict[str, str], *, deadline_s: float = DEADLINE_S, **places: str) -> Any:
    """Open the application; places are other addresses than those of env."""
    at = {
        'postgres_dsn': env['DATABASE_URL'],
        'redis_url': env['ARQ_REDIS_URL'],
        'mongodb_url': env['MONGODB_URL'],
        'mongodb_database': env['MONGODB_DATABASE'],
    }
    async with contextlib.AsyncExitStack() as stack:
        desk = ApiDesk(stack, ServerAddresses(**(at | places)), deadline_s)
        stack.push_async_callback(desk.close)
        yield desk
