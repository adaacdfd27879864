"""`POST /hooks/NAME`: the calls of providers, bounded and verified before anything is read."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from actions.bounce import receive_reports
from db.feedback_suppression import FeedbackRules
from mail.bounce.providers import (
    read_brevo,
    read_mailgun,
    read_postmark,
    read_sendgrid,
    read_ses,
)
from mail.bounce.report import Report
from mail.bounce.return_path import ReturnPaths
from mail.unsubscribe import UnsubscribeLinks
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.hooks.signatures import has_password, is_mailgun, is_sendgrid
from web.hooks.sns import NotFromSnsError, SnsMessages
from web.hooks.unsubscribe import add_unsubscribing

log = structlog.get_logger()

LARGEST_CALL_BYTES = 1024 * 1024
CALL_WITHIN_S = 10.0


class HookRefusedError(Exception):
    """A call that is not to be believed, or cannot be read."""

    def __init__(self, why: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class ProviderKeys:
    """By what each provider is known; None or nothing: its path is not there."""

    postmark: str | None = field(default=None, repr=False)
    mailgun: str | None = field(default=None, repr=False)
    sendgrid: str | None = None
    brevo: str | None = field(default=None, repr=False)
    sns: SnsMessages | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What handlers of calls work with."""

    servers: Servers
    keys: ProviderKeys
    return_paths: ReturnPaths | None = None
    rules: FeedbackRules = field(default_factory=FeedbackRules)
    unsubscribe: UnsubscribeLinks | None = None


Headers = Mapping[str, str]
Read = Callable[[Headers, bytes], Awaitable[Sequence[Report]]]


def add_hooks(app: FastAPI, hooks: Hooks) -> None:
    """Add a path for each provider that is set up, and that of unsubscribe links."""
    if hooks.unsubscribe is not None:
        add_unsubscribing(app, hooks.servers, hooks.unsubscribe)
    for name, read in _readers(hooks).items():
        app.add_api_route(
            f'/hooks/{name}', _handler(hooks, name, read), methods=['POST'],
            include_in_schema=False, max_body_size=LARGEST_CALL_BYTES,
        )  # fmt: skip


def _handler(hooks: Hooks, name: str, read: Read) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await _answer(hooks, name, read, request)

    return answer


def _readers(hooks: Hooks) -> dict[str, Read]:
    keys, paths = hooks.keys, hooks.return_paths
    readers: dict[str, Read] = {}
    if (sns := keys.sns) is not None:
        readers['ses'] = partial(_read_sns, sns, paths)
    if (postmark := keys.postmark) is not None:

        async def read_a_postmark(headers: Headers, body: bytes) -> Sequence[Report]:
            _require(has_password(headers, postmark))
            return read_postmark(_json(body), paths)

        readers['postmark'] = read_a_postmark
    if (mailgun := keys.mailgun) is not None:

        async def read_a_mailgun(_: Headers, body: bytes) -> Sequence[Report]:
            given = _json(body)
            given = given if isinstance(given, dict) else {}
            _require(is_mailgun(given.get('signature'), mailgun))
            return read_mailgun(given.get('event-data'), paths)

        readers['mailgun'] = read_a_mailgun
    if (sendgrid := keys.sendgrid) is not None:

        async def read_a_sendgrid(headers: Headers, body: bytes) -> Sequence[Report]:
            _require(is_sendgrid(headers, body, sendgrid))
            return read_sendgrid(_json(body), paths)

        readers['sendgrid'] = read_a_sendgrid
    if (brevo := keys.brevo) is not None:

        async def read_a_brevo(headers: Headers, body: bytes) -> Sequence[Report]:
            _require(has_password(headers, brevo))
            return read_brevo(_json(body), paths)

        readers['brevo'] = read_a_brevo
    return readers


async def _read_sns(
    sns: SnsMessages, paths: ReturnPaths | None, _: Headers, body: bytes
) -> Sequence[Report]:
    message = _json(body)
    if not isinstance(message, dict):
        raise HookRefusedError('it is no message of SNS', HTTPStatus.BAD_REQUEST)
    try:
        await sns.check(message)
        if message['Type'] == 'SubscriptionConfirmation':
            await sns.confirm(message)
            log.info('hook.subscribed', topic=message['TopicArn'])
    except NotFromSnsError as error:
        raise HookRefusedError(str(error)) from error
    except OSError as error:
        raise HookRefusedError(
            f'SNS does not answer: {error}', HTTPStatus.SERVICE_UNAVAILABLE
        ) from error
    if message['Type'] != 'Notification':
        return ()
    return read_ses(_json(str(message.get('Message')).encode(errors='replace')), paths)


def _require(is_theirs: bool) -> None:
    if not is_theirs:
        raise HookRefusedError('the signature or the secret is wrong')


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HookRefusedError('the body is no JSON', HTTPStatus.BAD_REQUEST) from error


async def _answer(hooks: Hooks, name: str, read: Read, request: Request) -> Response:
    """Answer a call: 200 once its reports are stored, so that it is repeated until then."""
    try:
        body = await _body(request)
        reports = await read(request.headers, body)
        received = await receive_reports(hooks.servers, reports, hooks.rules) if reports else None
    except HookRefusedError as error:
        log.warning('hook.refused', provider=name, reason=str(error))
        return PlainTextResponse(f'{error}\n', error.status)
    except ProblemError as error:
        log.warning('hook.not_stored', provider=name, error=str(error))
        return PlainTextResponse('not now\n', HTTPStatus.SERVICE_UNAVAILABLE)
    new = received.new if received else 0
    log.info('hook.taken', provider=name, reports=len(reports), new=new)
    return PlainTextResponse('thank you\n')


async def _body(request: Request) -> bytes:
    pieces, size = [], 0
    try:
        async with asyncio.timeout(CALL_WITHIN_S):
            async for piece in request.stream():
                size += len(piece)
                if size > LARGEST_CALL_BYTES:
                    raise HookRefusedError(
                        'the body is too large', HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                    )
                pieces.append(piece)
    except (TimeoutError, ClientDisconnect) as error:
        raise HookRefusedError('the body did not come', HTTPStatus.REQUEST_TIMEOUT) from error
    return b''.join(pieces)
