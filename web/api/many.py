"""What an operator decides about all e-mails that fit: retry, cancel, resolve."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.responses import Response

from actions.audit import AuditEntry, audited
from actions.cancel import cancel_selected
from actions.emails import Unchanged
from actions.resolve import resolve_selected
from actions.retry import WAYS, RetriedSelection, retry_selected
from actions.selected import Chosen
from db.selection import DEAD
from db.states import CANCELLABLE
from reporting.mail_filter import described_selection
from reporting.problems import Document, Problem
from web.api.access import Principal
from web.api.answers import OF_A_BODY, json_answer, refusals, told
from web.api.decisions import Decision, DecisionBody, Operator, actor_of
from web.api.documents import ManyChanged
from web.api.emails import EmailConditions, Parts
from web.api.fields import Count, one_of
from web.api.parts import Api

router = APIRouter(prefix='/api/emails', tags=['decisions'])

RetryWord = Annotated[str, one_of(WAYS)]
CancelWord = Annotated[str, one_of([*CANCELLABLE, DEAD])]
MORE_FIT = {409: 'More e-mails fit than `expected`; nothing was changed.'}
MOST = 10_000


class Conditions(EmailConditions):
    """Which e-mails; see the parameters of GET /api/emails."""

    model_config = ConfigDict(extra='forbid', strict=True)


class ManyBody(DecisionBody):
    """Which e-mails, how many at most, and whether it is only asked what would happen."""

    filter: Conditions = Conditions()
    limit: Count = Field(
        default=1000, ge=1, le=MOST, description='E-mails at most, the oldest first.'
    )
    expected: Count | None = Field(
        default=None, description='`matched` of the dry run: when more fit, nothing is changed.'
    )
    dry_run: bool = Field(default=False, description='Say what would be done, change nothing.')


class RetryMany(ManyBody):
    """What is sent again."""

    status: RetryWord = Field(description='All of these; `dead`: failed, without an attempt left.')


class CancelMany(ManyBody):
    """What is never sent."""

    status: CancelWord = Field(
        description='All of these; `failed` and `uncertain` also where no attempt follows.'
    )


class ResolveMany(ManyBody):
    """What is decided: sent is for uncertain ones, failed for those and failing ones."""

    decision: Decision


@asynccontextmanager
async def _written_down(
    api: Api, principal: Principal, action: str, body: ManyBody
) -> AsyncIterator[AuditEntry]:
    if body.dry_run:
        yield AuditEntry(0)
        return
    asked = body.model_dump(mode='json', exclude_none=True)
    async with audited(api.servers, actor_of(principal), action, asked) as entry:
        yield entry


@router.post(
    '/retry', response_model=ManyChanged, responses=refusals(OF_A_BODY, MORE_FIT),
    operation_id='retry_emails',
)  # fmt: skip
async def retry_many(api: Parts, principal: Operator, body: RetryMany) -> Response:
    """Make all that fit due now, the oldest first."""
    async with _written_down(api, principal, 'email.retry', body) as entry:
        done = await retry_selected(
            api.servers, body.status, body.filter.as_filter(principal), api.terms,
            limit=body.limit, expected=body.expected, dry_run=body.dry_run,
        )  # fmt: skip
        entry.email_ids = done.retried
        entry.problem = done.problems[0].what if done.problems else None
    return json_answer(_retried(done))


def _retried(done: RetriedSelection) -> Document:
    chosen = Chosen(done.selection, done.matched, sample=done.sample)
    return _many(chosen, done.dry_run, done.retried, [], done.problems) | {
        'left': done.left,
        'warnings': done.warnings,
    }


@router.post(
    '/cancel', response_model=ManyChanged, responses=refusals(OF_A_BODY, MORE_FIT),
    operation_id='cancel_emails',
)  # fmt: skip
async def cancel_many(api: Parts, principal: Operator, body: CancelMany) -> Response:
    """Cancel all that fit, the oldest first: they are never sent."""
    async with _written_down(api, principal, 'email.cancel', body) as entry:
        chosen, done = await cancel_selected(
            api.servers, [body.status], body.filter.as_filter(principal),
            limit=body.limit, expected=body.expected, dry_run=body.dry_run,
        )  # fmt: skip
        entry.email_ids = done.cancelled
        entry.problem = done.problems[0].what if done.problems else None
    return json_answer(_many(chosen, body.dry_run, done.cancelled, done.unchanged, done.problems))


@router.post(
    '/resolve', response_model=ManyChanged, responses=refusals(OF_A_BODY, MORE_FIT),
    operation_id='resolve_emails',
)  # fmt: skip
async def resolve_many(api: Parts, principal: Operator, body: ResolveMany) -> Response:
    """Decide about all that fit, the oldest first: they did arrive, or are given up."""
    async with _written_down(api, principal, 'email.resolve', body) as entry:
        chosen, done = await resolve_selected(
            api.servers, body.filter.as_filter(principal), body.decision,
            limit=body.limit, expected=body.expected, dry_run=body.dry_run,
        )  # fmt: skip
        entry.email_ids = done.resolved
    return json_answer(_many(chosen, body.dry_run, done.resolved, done.unchanged, ()))


def _many(
    chosen: Chosen,
    dry_run: bool,
    changed: Sequence[int],
    unchanged: Sequence[Unchanged],
    problems: Sequence[Problem],
) -> dict[str, Any]:
    return {
        'dry_run': dry_run,
        'selection': described_selection(chosen.selection),
        'matched': chosen.matched,
        'changed': list(changed),
        'left': chosen.left,
        'unchanged': [asdict(email) for email in unchanged],
        'sample': chosen.sample,
        'warnings': [],
        'problems': told(problems),
    }
