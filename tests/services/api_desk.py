"""The API for tests, in this process: the application, and clients with tokens."""

import contextlib
import html
import re
from typing import Any

import httpx

from actions.retry import RetryTerms
from actions.tokens import ApiScope, create_token
from db.audit import Actor
from mail_outbox.address_fields import Sender
from reporting.servers import ServerAddresses
from tests.conftest import DEADLINE_S
from web.api.parts import Api
from web.api.servers import QUEUEING_CONNECTIONS, ApiServers
from web.application import close_desk, make_application
from web.auth.provider import IdentityProvider
from web.auth.proxy import NO_PROXY, TrustedProxy
from web.place import NOWHERE, PublicPlace
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

TESTER = Actor('anna', 'tests')
SENDER = Sender('noreply@example.com', 'Example')
PERSON_SCOPES = (ApiScope.READ, ApiScope.OPERATE, ApiScope.ADMINISTER)
ALL_SCOPES = (ApiScope.SEND, ApiScope.READ, ApiScope.OPERATE)


def api_for(addresses: ServerAddresses, deadline_s: float = DEADLINE_S) -> Api:
    """Return what the API and the desk work with; nothing is opened before it is asked."""
    return Api(
        ApiServers(addresses, deadline_s, connections=QUEUEING_CONNECTIONS),
        ApiServers(addresses, deadline_s),
        RetryTerms(24, 'arq:queue'),
        SENDER,
    )


def form_key(page: str) -> str:
    """Return what a form of a page carries."""
    return re.search('name="form_key" value="([^"]+)"', page)[1]


def fields_of(page: str, action: str) -> list[tuple[str, str]]:
    """Return the hidden fields of a page's form."""
    form = re.search(f'<form method="post" action="{re.escape(action)}".*?</form>', page, re.DOTALL)
    found = re.findall('<input type="hidden" name="([^"]*)" value="([^"]*)">', form[0])
    return [(name, html.unescape(value)) for name, value in found]


class ApiDesk:
    """An application on real servers; a client for each token."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        addresses: ServerAddresses,
        deadline_s: float,
        proxy: TrustedProxy = NO_PROXY,
        place: PublicPlace = NOWHERE,
        provider: IdentityProvider | None = None,
    ) -> None:
        self._stack = stack
        self._watches = [Watch(addresses, asked) for asked in (OVERVIEW, READINESS)]
        self.api = api_for(addresses, deadline_s)
        self.app = make_application(
            *self._watches,
            token=None,
            loopback_only=True,
            api=self.api,
            proxy=proxy,
            place=place,
            provider=provider,
        )

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

    async def person(
        self, name: str = 'lena', scopes: Any = PERSON_SCOPES, **more: Any
    ) -> httpx.AsyncClient:
        """Return a browser in which somebody has logged in."""
        client = await self.browser()
        token = await self.token(name, scopes, **more)
        page = await client.get('/login')
        answer = await client.post('/login', data={'form_key': form_key(page.text), 'token': token})
        assert answer.status_code == 303, answer.text
        return client

    async def browser(self, **more: Any) -> httpx.AsyncClient:
        """Return a browser in which nobody has logged in."""
        client = await self.client(**more)
        client.headers['Accept'] = 'text/html'
        return client

    async def close(self) -> None:
        await close_desk(self.app)
        for watch in self._watches:
            await watch.close()
        await self.api.close()


@contextlib.asynccontextmanager
async def open_desk(
    env: dict[str, str],
    *,
    deadline_s: float = DEADLINE_S,
    proxy: TrustedProxy = NO_PROXY,
    place: PublicPlace = NOWHERE,
    provider: IdentityProvider | None = None,
    **places: str,
) -> Any:
    """Open the application; places are other addresses than those of env."""
    at = {
        'postgres_dsn': env['DATABASE_URL'],
        'redis_url': env['ARQ_REDIS_URL'],
        'mongodb_url': env['MONGODB_URL'],
        'mongodb_database': env['MONGODB_DATABASE'],
    }
    async with contextlib.AsyncExitStack() as stack:
        desk = ApiDesk(stack, ServerAddresses(**(at | places)), deadline_s, proxy, place, provider)
        stack.push_async_callback(desk.close)
        yield desk
