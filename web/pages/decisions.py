"""Decide about e-mails: what would happen is shown first, and done once.

One page for every decision: GET shows the plan (a dry run), POST carries it out and leads to the
change's page. A form carries a key, so that a double click changes nothing twice.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from actions.audit import AuditEntry
from actions.decide import (
    DECISION_KINDS,
    MOST_AT_ONCE,
    DecisionPlan,
    MailDecision,
    carry_out,
    choose_all,
    plan_about_all,
    plan_about_ids,
)
from actions.safety import MoreThanExpectedError, RequestError
from db.audit import read_entry
from db.email_list import LAST_ID, ids_of_organization
from reporting.found_mail import TOO_SLOW
from reporting.problems import Problem, ProblemError
from reporting.wording import counted
from web.api.access import Principal
from web.auth.forms import FilledForm, form_of, read_form
from web.auth.people import Role, Visitor
from web.pages.changes import ChangeUnderWay
from web.pages.desk import Desk, actor, desk_of, page, person, see_other
from web.pages.mail_query import MailQuery
from web.pages.words import EFFECTS

router = APIRouter(include_in_schema=False)

MOST_IDS = 1000  # given one by one


@dataclass(frozen=True, slots=True)
class Meant:
    """Which e-mails a decision is about.

    Attributes:
        ids: Given one by one; None: all that fit the query.
        change: The audit's entry whose e-mails these are, or None.
    """

    decision: MailDecision
    query: MailQuery
    ids: Sequence[int] | None
    change: int | None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return the form's hidden fields."""
        if self.change is not None:
            return [('change', str(self.change))]
        if self.ids is not None:
            return [('id', str(i)) for i in self.ids]
        return [('of', 'all'), *self.query.pairs]


async def _meant(desk: Desk, decision: MailDecision, given: FilledForm) -> Meant:
    """Return which e-mails a page's address or a form means.

    Raises:
        RequestError: none; ProblemError: PostgreSQL does not answer.
    """
    query = MailQuery.of(given)
    change = _whole(given.one('change'))
    if change is not None:
        entry = await desk.servers.ask_postgres(lambda pool: read_entry(pool, change))
        if entry is None:
            raise RequestError(f'there is no change {change}', 'see the audit')
        return Meant(decision, query, entry['email_ids'], change)
    if given.one('of') == 'all':
        return Meant(decision, query, None, None)
    ids = [i for i in map(_whole, given.all('id')) if i is not None]
    if not ids:
        raise RequestError('no e-mail is selected', 'go back and select some, or all that match')
    return Meant(decision, query, ids[:MOST_IDS], None)


def _whole(text: str) -> int | None:
    is_id = text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if is_id and 0 < int(text) <= LAST_ID else None


async def _plan(desk: Desk, meant: Meant, principal: Principal) -> DecisionPlan:
    if meant.ids is not None:
        return await plan_about_ids(
            desk.servers, meant.decision, meant.ids, principal.organization_id
        )
    try:
        return await plan_about_all(
            desk.servers, meant.decision, meant.query.conditions(principal), meant.query.status
        )
    except ProblemError as error:
        if isinstance(error.__cause__, asyncpg.QueryCanceledError):
            raise ProblemError(TOO_SLOW) from error
        raise


def _decision(word: str) -> MailDecision:
    try:
        return MailDecision(word)
    except ValueError:
        raise RequestError(f'{word!a} is no decision', 'go back, and choose one') from None


@router.get('/decide')
async def decision_page(request: Request) -> Response:
    """Say what a decision would do, and ask for it."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    given = form_of(QueryParams(request.url.query).multi_items())
    meant = await _meant(desk, _decision(given.one('do')), given)
    return await _ask(request, visitor, meant)


async def _ask(
    request: Request, visitor: Visitor, meant: Meant, problem: Problem | None = None
) -> Response:
    plan = await _plan(desk_of(request), meant, _principal(visitor))
    effect, word = EFFECTS[meant.decision]
    return await page(
        request, visitor, 'decide.html', plan=plan, meant=meant, effect=effect, word=word,
        problem=problem, most=MOST_AT_ONCE, request_key=secrets.token_urlsafe(16),
        kind=DECISION_KINDS[meant.decision],
    )  # fmt: skip


def _principal(visitor: Visitor) -> Principal:
    if visitor.principal is None:
        raise RequestError('nobody is logged in', 'log in')
    return visitor.principal


@router.post('/decide')
async def post_decision(request: Request) -> Response:
    """Carry a decision out, and lead to what became of it."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    form = await read_form(request, visitor)
    meant = await _meant(desk, _decision(form.one('do')), form)
    try:
        ids = await _fixed_ids(desk, meant, _principal(visitor), _whole(form.one('expected')))
    except MoreThanExpectedError as error:
        return await _ask(request, visitor, meant, error.problem)

    async def make(entry: AuditEntry, progress: ChangeUnderWay) -> None:
        changed: list[int] = []

        def on_progress(done: Any) -> None:
            progress.note(done)
            changed.extend(done.changed)
            entry.email_ids = changed

        await carry_out(desk.servers, meant.decision, ids, desk.api.terms, on_progress=on_progress)
        if progress.unchanged:
            entry.problem = f'{counted(len(progress.unchanged), "e-mail was", "e-mails were")} left'

    details = {
        'decision': meant.decision.value, 'reason': form.one('reason')[:500] or None,
        'filter': meant.query.pairs if meant.ids is None else None, 'at': 'desk',
    }  # fmt: skip
    entry_id = await desk.changes.make(
        actor(visitor), DECISION_KINDS[meant.decision].audit, details, request_key_of(form), make,
        total=len(ids),
    )  # fmt: skip
    return see_other(request, f'/changes/{entry_id}')


def request_key_of(form: FilledForm) -> str:
    """Return the key of a form that changes something.

    Raises:
        RequestError: it has none.
    """
    key = form.one('request_key')
    if not 16 <= len(key) <= 64:
        raise RequestError('the form has no key', 'go back, reload the page, and send it again')
    return key


async def _fixed_ids(
    desk: Desk, meant: Meant, principal: Principal, expected: int | None
) -> Sequence[int]:
    """Return what is changed: what was counted, and nothing that came since.

    Raises:
        MoreThanExpectedError: more fit now than the person was shown.
    """
    if meant.ids is None:
        ids = await choose_all(
            desk.servers, meant.decision, meant.query.conditions(principal), meant.query.status
        )
        if len(ids) > MOST_AT_ONCE:
            ids = ids[:MOST_AT_ONCE]
        if expected is not None and len(ids) > expected:
            raise MoreThanExpectedError(len(ids), expected)
        return ids
    organization_id = principal.organization_id
    if organization_id is None:
        return meant.ids
    ids = list(meant.ids)
    visible = await desk.servers.ask_postgres(
        lambda pool: ids_of_organization(pool, ids, organization_id)
    )
    return [i for i in ids if i in visible]
