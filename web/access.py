"""Who may look: nobody but this machine, unless a token is set. And headers for browsers."""

import base64
import binascii
import hmac
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from engine.urls import is_loopback
from mail.unsubscribe import PATH as UNSUBSCRIBE_PATH
from web.auth.proxy import NO_PROXY, TrustedProxy
from web.place import NOWHERE, PublicPlace, path_of, root_of, set_prefix, told_prefix

MACHINES_PATHS = ('/metrics', '/api/status')  # what is told to who has WEB_TOKEN
# Here the API asks for its own tokens, see web.api.access. Everything else is the desk's, which has
# people log in, see web.auth; the overview is for who has WEB_TOKEN, too.
API_PATHS = ('/api/', '/admin/', '/emails/')
API_PATHS_EXACTLY = ('/emails', '/openapi.json')
PAGE_PATHS = ('/api/status',)
OTHER_NAME = (
    'ask for this server as localhost or 127.0.0.1; for people behind a proxy set WEB_PUBLIC_URL\n'
)


def is_api_path(path: str) -> bool:
    """Whether the API answers at this path, and not the page."""
    return (path.startswith(API_PATHS) or path in API_PATHS_EXACTLY) and path not in PAGE_PATHS


class Guard:
    """ASGI middleware around everything, errors and refusals included."""

    def __init__(
        self,
        app: FastAPI,
        *,
        token: str | None,
        loopback_only: bool,
        proxy: TrustedProxy = NO_PROXY,
        place: PublicPlace = NOWHERE,
    ) -> None:
        """Say who may look.

        Args:
            token: Wanted as Bearer token or as password of HTTP Basic, with any user name; None
                asks for nothing.
            loopback_only: Refuse other names of this server: a page of somebody else's, in a
                browser on this machine, may give its own name our address (DNS rebinding).
            proxy: Whose word about the path before ours, and TLS, counts.
            place: Where people reach it, if that was said.
        """
        self._app = app
        self._token = token.encode() if token else None
        self._loopback_only = loopback_only
        self._proxy = proxy
        self._place = place
        policy = (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
            "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        )
        headers = {
            'Content-Security-Policy': policy,
            'X-Content-Type-Options': 'nosniff',
            'X-Frame-Options': 'DENY',
            'Referrer-Policy': 'no-referrer',
            'Cross-Origin-Resource-Policy': 'same-origin',
            'Cache-Control': 'no-store',
        }
        self._headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]

    @property
    def app(self) -> FastAPI:
        """The application inside."""
        return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                # A frame for a message, and files that browsers keep, have some of their own.
                own = {name for name, _ in message['headers']}
                message['headers'] = [
                    *message['headers'],
                    *(pair for pair in self._headers if pair[0] not in own),
                ]
            await send(message)

        headers = Headers(scope=scope)
        self._find_place(scope, headers)
        scope['may_look'] = self._token is None or self._may_look(headers.get('authorization', ''))
        answer = self._refusal(scope, headers) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path = path_of(scope)
        is_public = path.startswith(UNSUBSCRIBE_PATH)  # a link is its own leave
        if self._loopback_only and not (is_public or self._is_our_name(headers.get('host', ''))):
            return PlainTextResponse(OTHER_NAME, HTTPStatus.MISDIRECTED_REQUEST)
        if not path:
            return RedirectResponse(f'{root_of(scope)}/', HTTPStatus.TEMPORARY_REDIRECT)
        if scope['may_look'] or path not in MACHINES_PATHS:
            return None
        asked = {'WWW-Authenticate': 'Basic realm="email", charset="UTF-8"'}
        return PlainTextResponse(
            'the token of WEB_TOKEN is needed\n', HTTPStatus.UNAUTHORIZED, asked
        )

    def _find_place(self, scope: Scope, headers: Headers) -> None:
        """Note in the scope what the proxy before us tells of the path, and of TLS."""
        prefix = self._place.prefix
        is_over_tls = self._place.is_over_tls and self._is_public_name(headers.get('host', ''))
        if self._proxy.speaks(HTTPConnection(scope)):
            prefix = prefix or told_prefix(headers.get('x-forwarded-prefix', ''))
            told = headers.get('x-forwarded-proto', '').rpartition(',')[2].strip()
            is_over_tls = is_over_tls or told.lower() == 'https'
        if prefix:
            set_prefix(scope, prefix)
        if is_over_tls:
            scope['scheme'] = 'https'

    def _is_our_name(self, host: str) -> bool:
        return _is_this_machine(host) or self._is_public_name(host)

    def _is_public_name(self, host: str) -> bool:
        return self._place.host != '' and _host_name(host) == self._place.host

    def _may_look(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(' ')
        given = credentials.strip().encode('latin-1')
        if scheme.lower() == 'basic':
            try:
                given = base64.b64decode(given, validate=True).partition(b':')[2]
            except binascii.Error:
                return False
        elif scheme.lower() != 'bearer':
            return False
        return hmac.compare_digest(given, self._token or b'')


@lru_cache(maxsize=64)
def _is_this_machine(host: str) -> bool:
    return is_loopback(_host_name(host))


def _host_name(host: str) -> str:
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''
