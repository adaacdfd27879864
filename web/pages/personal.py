"""Everything that is held on one address: read out, or erased.

The address is sent in forms alone: what stands in a page's address stands in proxies' logs, too.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from actions.audit import AuditEntry, audited
from actions.erase import Erasure, erase_now, erase_person, erasure_document, erasure_lines
from actions.export import export_document
from actions.safety import RequestError
from db.suppressions import suppression_key
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.suppression import erased_key
from reporting.problems import Problem
from reporting.servers import Servers
from web.auth.forms import FilledForm, read_form
from web.auth.people import Role, Visitor
from web.pages.changes import ChangeUnderWay
from web.pages.decisions import request_key_of
from web.pages.desk import actor, desk_of, page, person, see_other

router = APIRouter(include_in_schema=False)

COUNT_S = 4.0  # all that is held is read for it: where that is much, it is counted as it goes
STATEMENT_S = 60.0  # of one stretch of the outbox, and of each table beside it
LONGEST_REASON = 500

administrator = partial(person, role=Role.ADMINISTER, of_all=True, confirmed=True)


@contextlib.asynccontextmanager
async def _patient(request: Request) -> AsyncIterator[Servers]:
    """Yield connections of their own: what takes minutes holds nobody else up."""
    addresses = replace(desk_of(request).servers.addresses, postgres_command_timeout_s=STATEMENT_S)
    servers = Servers(addresses, pool_size=1, application_name='email-desk')
    try:
        yield servers
    finally:
        await servers.close()


@router.get('/person')
async def personal_page(request: Request) -> Response:
    """Ask whom it is about."""
    return await _ask(request, await administrator(request))


async def _ask(
    request: Request,
    visitor: Visitor,
    address: str = '',
    *,
    problem: Problem | None = None,
    told: list[str] | None = None,
    reason: str = '',
) -> Response:
    return await page(
        request, visitor, 'person.html', address=address, problem=problem, told=told,
        reason=reason, request_key=secrets.token_urlsafe(16), longest=LONGEST_REASON,
    )  # fmt: skip


def _key_in(form: FilledForm) -> str:
    """Return the address as suppressions and the audit have it.

    Raises:
        RequestError: it is none.
    """
    try:
        key = suppression_key(form.one('address'))
    except InvalidEmailError as error:
        raise RequestError(f'{form.one("address")!a} is no address', 'correct it') from error
    if key.startswith('@'):
        raise RequestError(f'{key} is a domain', 'give one address')
    return key


@router.post('/person')
async def erase_page(request: Request) -> Response:
    """Say what would be erased; erase it when that was seen."""
    visitor = await administrator(request)
    form = await read_form(request, visitor)
    address, reason = form.one('address'), form.one('reason')[:LONGEST_REASON]
    try:
        key = _key_in(form)
    except RequestError as error:
        return await _ask(request, visitor, address, problem=error.problem, reason=reason)
    if not reason:
        problem = Problem('a reason is missing', 'say why, without the address')
        return await _ask(request, visitor, address, problem=problem)
    if form.one('confirmed') != 'yes':
        told = await _would_erase(request, visitor, key)
        return await _ask(request, visitor, address, told=told, reason=reason)
    return await _erase(request, visitor, form, key)


async def _would_erase(request: Request, visitor: Visitor, key: str) -> list[str]:
    async with _patient(request) as servers:
        counting = erase_person(servers, key, actor(visitor), '', dry_run=True)
        try:
            async with asyncio.timeout(COUNT_S):
                return erasure_lines(erasure_document(await counting))
        except TimeoutError:
            return ['There is too much mail to count first what would go: it takes minutes.']


async def _erase(request: Request, visitor: Visitor, form: FilledForm, key: str) -> Response:
    async def make(entry: AuditEntry, progress: ChangeUnderWay) -> None:
        def tell(done: int, _: int | None) -> bool:
            progress.changed = done
            return True

        async with _patient(request) as servers:
            servers.progress = tell
            done: Erasure = await erase_now(servers, key)
        progress.told = erasure_lines(erasure_document(done))
        progress.problems = list(done.problems)
        entry.problem = done.problems[0].what if done.problems else None

    details = {'address': erased_key(key), 'reason': form.one('reason')[:LONGEST_REASON]}
    entry_id = await desk_of(request).changes.make(
        actor(visitor), 'personal.erase', details | {'at': 'desk'}, request_key_of(form), make,
        total=0,
    )  # fmt: skip
    return see_other(request, f'/changes/{entry_id}')


@router.post('/person/export')
async def export_page(request: Request) -> Response:
    """Give everything that is held, as a file; that somebody took it is in the audit."""
    visitor = await administrator(request)
    form = await read_form(request, visitor)
    try:
        key = _key_in(form)
    except RequestError as error:
        return await _ask(request, visitor, form.one('address'), problem=error.problem)

    async def parts() -> AsyncIterator[str]:
        async with _patient(request) as servers:
            async for part in export_document(servers, key):
                yield part

    details = {'address': erased_key(key), 'at': 'desk'}
    async with audited(desk_of(request).servers, actor(visitor), 'personal.export', details):
        headers = {'Content-Disposition': 'attachment; filename="person.json"'}
        return StreamingResponse(parts(), media_type='application/json', headers=headers)
