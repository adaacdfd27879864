"""`/unsubscribe/TOKEN`: what the links in e-mails lead to (RFC 8058).

A mail program POSTs; a person GETs a page, whose form POSTs. A GET changes nothing, whoever follows
links. The token says all: without one that we signed, an answer tells nothing.
"""

from collections.abc import Mapping
from email import message_from_bytes
from email.message import Message
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from db.suppressions import suppression_key
from db.unsubscriptions import read_wish, resubscribe, unsubscribe
from mail.bounce.mime import decoded_text
from mail.unsubscribe import PATH, UnsubscribeLinks, Unsubscription
from mail_outbox.envelope import InvalidEmailError
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.pages.desk import TEMPLATES
from web.pages.static import FILES, MEDIA_TYPES

log = structlog.get_logger()

LARGEST_FORM_BYTES = 8 * 1024
MOST_FIELDS = 20
RETRY_AFTER_S = 30
# Beside the pages, so that a proxy that passes PATH on passes all that they need.
BESIDE = {'page.css': 'desk.css', 'icon.svg': 'icon.svg'}
ONE_CLICK = ('List-Unsubscribe', 'One-Click')  # RFC 8058, 3.2
FIELD = 'action'  # of the page's form
HEADERS = {'X-Robots-Tag': 'noindex, nofollow'}


class Click(StrEnum):
    """What a POST asks for."""

    ONE_CLICK = 'one-click'
    UNSUBSCRIBE = 'unsubscribe'
    SUBSCRIBE = 'subscribe'


def add_unsubscribing(app: FastAPI, servers: Servers, links: UnsubscribeLinks) -> None:
    """Give an application the path of the links."""

    async def look(request: Request) -> Response:
        return _beside(request) or await _answer(servers, links, request, None)

    async def click(request: Request) -> Response:
        clicked = _click_of(request.headers.get('content-type', ''), await request.body())
        if clicked is None:
            return _page(HTTPStatus.BAD_REQUEST, state='unclear')
        return await _answer(servers, links, request, clicked)

    for handler, methods in ((look, ['GET', 'HEAD']), (click, ['POST'])):
        app.add_api_route(
            PATH + '{token}', handler, methods=methods, include_in_schema=False,
            max_body_size=LARGEST_FORM_BYTES,
        )  # fmt: skip


def _beside(request: Request) -> Response | None:
    name = BESIDE.get(request.path_params['token'])
    if name is None:
        return None
    media_type = MEDIA_TYPES['.' + name.rpartition('.')[2]]
    return Response(FILES[name], media_type=media_type, headers={'Cache-Control': 'max-age=3600'})


async def _answer(
    servers: Servers, links: UnsubscribeLinks, request: Request, click: Click | None
) -> Response:
    """Do what is asked for, and tell how it is now."""
    asked = links.read(request.path_params['token'])
    key = None if asked is None else _key_of(asked)
    if asked is None or key is None:
        log.info('unsubscribe.unknown_link')
        return _page(HTTPStatus.NOT_FOUND, state='unknown')
    try:
        if click is not None:
            await _change(servers, asked, key, click)
        wish = await servers.ask_postgres(partial(read_wish, key=key, email_type=asked.email_type))
    except ProblemError as error:
        log.warning('unsubscribe.not_now', error=str(error))
        return _page(HTTPStatus.SERVICE_UNAVAILABLE, state='later', retry_after_s=RETRY_AFTER_S)
    if click is Click.ONE_CLICK:
        return PlainTextResponse('unsubscribed\n', headers=HEADERS)
    return _page(
        HTTPStatus.OK, state=wish.value, address=asked.address,
        words=links.words_of(asked.email_type), is_back=click is Click.SUBSCRIBE,
    )  # fmt: skip


def _key_of(asked: Unsubscription) -> str | None:
    try:
        return suppression_key(asked.address)
    except InvalidEmailError:  # it was sent to, so a rule of then is not that of now
        return None


async def _change(servers: Servers, asked: Unsubscription, key: str, click: Click) -> None:
    change = resubscribe if click is Click.SUBSCRIBE else unsubscribe
    way = 'one-click' if click is Click.ONE_CLICK else 'page'
    email_type, email_id = asked.email_type, asked.email_id
    done = await servers.ask_postgres(
        partial(change, key=key, email_type=email_type, email_id=email_id, way=way)
    )
    if done:
        log.info('unsubscribe.taken', email_id=email_id, email_type=email_type, action=click.value)


def _click_of(content_type: str, body: bytes) -> Click | None:
    """Return what a form asks for; None where it is none of ours."""
    fields = _fields(content_type, body)
    if fields.get(ONE_CLICK[0]) == ONE_CLICK[1]:
        return Click.ONE_CLICK
    given = fields.get(FIELD)
    return Click(given) if given in (Click.UNSUBSCRIBE, Click.SUBSCRIBE) else None


def _text_of(part: Message) -> str:
    # As bytes: a charset may be anything, and is not needed.
    data = part.get_payload(decode=True)
    return data.decode('ascii', 'replace').strip() if isinstance(data, bytes) else ''


def _fields(content_type: str, body: bytes) -> Mapping[str, str]:
    """Read a form, in either of the forms of RFC 8058, 3.2; {} for what cannot be read."""
    try:
        if content_type.lower().startswith('multipart/form-data'):
            head = f'Content-Type: {content_type}\r\n\r\n'.encode()
            parts = message_from_bytes(head + body).walk()
            return {
                str(part.get_param('name', header='Content-Disposition')):
                    decoded_text(part).strip()
                for part in parts
                if not part.is_multipart()
            }  # fmt: skip
        return dict(parse_qsl(body.decode(), max_num_fields=MOST_FIELDS))
    # Whatever the library meets: UnicodeError is a ValueError, names in odd pieces are no type.
    except (ValueError, LookupError, RecursionError, TypeError, AttributeError):
        return {}


def _page(status: HTTPStatus, *, retry_after_s: int | None = None, **values: object) -> Response:
    text = TEMPLATES.get_template('unsubscribe.html').render(values)
    headers = dict(HEADERS)
    if retry_after_s is not None:
        headers['Retry-After'] = str(retry_after_s)
    return HTMLResponse(text, status, headers=headers)
