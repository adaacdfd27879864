"""What the pages work with, and how one is answered."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from db.audit import Actor
from db.switches import Switch, read_email_types, read_switches
from reporting.problems import ProblemError
from reporting.servers import Servers
from reporting.wording import SWITCH_WORDS
from web.api.parts import Api
from web.api.problem import Refusal, RefusalError
from web.auth.door import (
    CANNOT_CONFIRM,
    ConfirmationNeededError,
    DeskDoor,
    LoginNeededError,
    set_cookie,
)
from web.auth.people import Role, Visitor
from web.pages.changes import Changes
from web.pages.static import address_of_file
from web.pages.trends import KnownTrends
from web.pages.words import FILTERS
from web.place import path_of, root_of
from web.watch import Watch

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / 'templates'),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(FILTERS)
SWITCHES_SHARED_S = 2.0
TYPES_SHARED_S = 30.0  # to find them reads tens of thousands of rows

# Where the bar on top leads: path, word, and whether it shows what belongs to everybody.
NAVIGATION: Sequence[tuple[str, str, bool]] = (
    ('/', 'Overview', True), ('/mail', 'Mail', False), ('/templates', 'Templates', True),
    ('/workers', 'Workers', True),
    ('/relays', 'Relays', True), ('/duties', 'Duties', True),
    ('/bounces', 'Bounces', True), ('/suppressions', 'Suppressions', True),
    ('/senders', 'Senders', True),
    ('/quotas', 'Quotas', True),
    ('/webhooks', 'Webhooks', True), ('/tokens', 'Tokens', True), ('/person', 'Privacy', True),
    ('/changes', 'Audit', True),
)  # fmt: skip
ADMINISTERED = ('/tokens', '/person')

BOUND = Refusal(
    HTTPStatus.FORBIDDEN, 'bound-to-organization', 'your token sees one organisation only',
    'log in with a token that is bound to none',
)  # fmt: skip


@dataclass(slots=True)
class Desk:
    """The desk's parts, as request.app.state.desk."""

    api: Api
    watch: Watch
    door: DeskDoor
    changes: Changes
    trends: KnownTrends
    is_stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _switches: Sequence[Switch] = field(default=(), init=False)
    _switches_at: float = field(default=-SWITCHES_SHARED_S, init=False)
    _types: Sequence[str] = field(default=(), init=False)
    _types_at: float = field(default=-TYPES_SHARED_S, init=False)

    @property
    def servers(self) -> Servers:
        """PostgreSQL, Redis and MongoDB."""
        return self.api.servers

    def forget_paused(self) -> None:
        """Have what is paused read anew: somebody has changed it here."""
        self._switches_at = -SWITCHES_SHARED_S

    async def paused(self) -> Sequence[Switch]:
        """Return what is paused, for the bar; as it was last known while PostgreSQL is away."""
        if time.monotonic() - self._switches_at > SWITCHES_SHARED_S:
            self._switches_at = time.monotonic()
            try:
                self._switches = await self.servers.ask_postgres(read_switches)
            except ProblemError:
                return self._switches
        return self._switches

    async def email_types(self) -> Sequence[str]:
        """Return the types in use, for the search; without an answer those known before."""
        if time.monotonic() - self._types_at > TYPES_SHARED_S:
            try:
                self._types = await self.servers.ask_postgres(read_email_types)
                self._types_at = time.monotonic()
            except ProblemError:
                return self._types
        return self._types

    async def close(self) -> None:
        """End what is under way; streams end at once."""
        self.is_stopping.set()
        await self.changes.close()


def desk_of(request: Request) -> Desk:
    """Return the desk's parts."""
    desk: Desk = request.app.state.desk
    return desk


async def person(
    request: Request, role: Role = Role.LOOK, *, of_all: bool = False, confirmed: bool = False
) -> Visitor:
    """Return who asks, if the person has this role.

    Args:
        of_all: The page shows what belongs to every organisation.
        confirmed: What it does cannot be taken back: the person has shown lately who it is.
    Raises:
        LoginNeededError, ConfirmationNeededError; RefusalError: 403; ProblemError: PostgreSQL does
            not answer.
    """
    visitor = await desk_of(request).door.visitor(request)
    if visitor.principal is None:
        raise LoginNeededError
    if not visitor.may(role):
        raise RefusalError(_not_for(visitor, role))
    if of_all and visitor.principal.organization_id is not None:
        raise RefusalError(BOUND)
    if confirmed and not visitor.is_confirmed:
        if visitor.by_proxy:
            raise RefusalError(CANNOT_CONFIRM)
        raise ConfirmationNeededError
    return visitor


def _not_for(visitor: Visitor, role: Role) -> Refusal:
    name = visitor.principal.name if visitor.principal else ''
    return Refusal(
        HTTPStatus.FORBIDDEN, 'out-of-scope', f'{name} may not {role} here',
        f'log in with a token that has the scope: python -m ops token create NAME --scope {role}',
    )  # fmt: skip


def actor(visitor: Visitor) -> Actor:
    """Return who the audit names."""
    principal = visitor.principal
    if principal is None:
        raise LoginNeededError
    return Actor(principal.name, principal.address, principal.token_id)


async def page(
    request: Request,
    visitor: Visitor,
    template: str,
    /,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    **values: Any,
) -> Response:
    """Answer with a page."""
    desk = desk_of(request)
    sees_all = visitor.principal is None or visitor.principal.organization_id is None
    values |= {
        'visitor': visitor,
        'role': visitor.role,
        'root': root_of(request.scope),
        'path': path_of(request.scope),
        'navigation': [
            (path, word)
            for path, word, of_all in NAVIGATION
            if visitor.principal
            and (sees_all or not of_all)
            and (path not in ADMINISTERED or visitor.may(Role.ADMINISTER))
        ],
        'paused': await desk.paused() if visitor.principal and sees_all else (),
        'switch_words': SWITCH_WORDS,
        'file': partial(address_of_file),
        'may_operate': visitor.may(Role.OPERATE),
        'may_administer': visitor.may(Role.ADMINISTER),
    }
    text = TEMPLATES.get_template(template).render(values)
    response = HTMLResponse(text, status)
    if visitor.is_new:
        set_cookie(request, response, visitor.secret)
    return response


def see_other(request: Request, path: str) -> Response:
    """Send the browser to another page of ours, after what a form asked for is done."""
    return RedirectResponse(root_of(request.scope) + path, HTTPStatus.SEE_OTHER)
