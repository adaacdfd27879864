"""What an operator decides about one e-mail: retry, cancel, resolve."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from actions.audit import audited
from actions.cancel import cancel_ids
from actions.emails import Unchanged
from actions.resolve import DECISIONS, resolve_emails
from actions.retry import retry_ids
from actions.tokens import ApiScope
from db import reports
from db.audit import Actor
from reporting.problems import Problem
from reporting.servers import Servers
from web.api.access import Principal, require
from web.api.answers import OF_A_BODY, OF_ONE_EMAIL, json_answer, refusals, told
from web.api.documents import EmailState
from web.api.emails import Parts, no_such, require_visible
from web.api.fields import EmailId, Reason, one_of
from web.api.problem import Refusal, RefusalError

router = APIRouter(tags=['decisions'])

Operator = Annotated[Principal, Depends(require(ApiScope.OPERATE))]
Decision = Annotated[str, one_of(DECISIONS)]
SHOWN = ('id', 'status', 'attempts', 'max_attempts', 'next_retry_at', 'sent_at', 'dead_reason')
SEE_ONE = 'GET /api/emails/{} says how it stands'

# What was changed, what not, and what the operator should know.
Done = tuple[Sequence[int], Sequence[Unchanged], Sequence[Problem]]


class DecisionBody(BaseModel):
    """Why it is done, for the audit."""

    model_config = ConfigDict(extra='forbid', strict=True)

    reason: Reason | None = None


class ResolveBody(DecisionBody):
    """How an uncertain e-mail is decided."""

    decision: Decision = Field(description='sent: it arrived; failed: no further attempt')


OptionalBody = Annotated[DecisionBody | None, Body()]


def actor_of(principal: Principal) -> Actor:
    """Return who the audit names."""
    return Actor(principal.name, principal.address, principal.token_id)


def state_answers(conflict: str) -> dict[int | str, dict[str, Any]]:
    """Return what a decision may be refused with."""
    return refusals(OF_A_BODY, OF_ONE_EMAIL, {409: conflict})


async def _decide(
    servers: Servers,
    principal: Principal,
    email_id: int,
    action: str,
    do: Callable[[], Awaitable[Done]],
    details: Mapping[str, Any],
) -> tuple[dict[str, Any], Sequence[Problem]]:
    """Do it, write it down, and return the new state.

    Args:
        action: retry, cancel or resolve.
        do: Called once it is written down.
    Raises:
        RefusalError: 404, or 409 with why not.
    """
    async with audited(
        servers, actor_of(principal), f'email.{action}', {'id': email_id, **details}
    ) as entry:
        changed, unchanged, problems = await do()
        entry.email_ids = list(changed)
        entry.problem = unchanged[0].reason if unchanged else None
    states = await servers.ask_postgres(partial(reports.read_states, email_ids=[email_id]))
    if email_id not in states:
        raise RefusalError(no_such(email_id))
    if unchanged:
        what = f'e-mail {email_id}: {unchanged[0].reason}'
        kind = {'retry': 'not-retryable', 'cancel': 'not-cancellable'}.get(action, 'not-resolvable')
        remedy = SEE_ONE.format(email_id)
        raise RefusalError(Refusal(HTTPStatus.CONFLICT, kind, what, remedy))
    return {name: states[email_id][name] for name in SHOWN}, problems


@router.post(
    '/admin/emails/{email_id:id}/retry', status_code=202, response_model=EmailState,
    responses=state_answers('It cannot be retried: it was sent, or is being sent.'),
    operation_id='admin_retry_email',
)  # fmt: skip
@router.post(
    '/api/emails/{email_id:id}/retry', status_code=202, response_model=EmailState,
    responses=state_answers('It cannot be retried: it was sent, or is being sent.'),
    operation_id='retry_email',
)  # fmt: skip
async def retry_one(
    api: Parts, principal: Operator, email_id: EmailId, body: OptionalBody = None
) -> Response:
    """Make an e-mail that failed, expired, was cancelled or is uncertain due now."""
    await require_visible(api.servers, principal, email_id)

    async def do() -> Done:
        done = await retry_ids(api.servers, [email_id], api.terms)
        return done.retried, done.unchanged, done.problems

    state, problems = await _decide(
        api.servers, principal, email_id, 'retry', do, {'reason': body and body.reason}
    )
    return json_answer(state | {'problems': told(problems)}, HTTPStatus.ACCEPTED)


@router.post(
    '/api/emails/{email_id:id}/cancel', response_model=EmailState,
    responses=state_answers('It cannot be cancelled: it was sent, or is being sent.'),
    operation_id='cancel_email',
)  # fmt: skip
async def cancel_one(
    api: Parts, principal: Operator, email_id: EmailId, body: OptionalBody = None
) -> Response:
    """Cancel an e-mail that waits, is held or has failed: it is never sent."""
    await require_visible(api.servers, principal, email_id)

    async def do() -> Done:
        done = await cancel_ids(api.servers, [email_id])
        return done.cancelled, done.unchanged, done.problems

    state, problems = await _decide(
        api.servers, principal, email_id, 'cancel', do, {'reason': body and body.reason}
    )
    return json_answer(state | {'problems': told(problems)})


@router.post(
    '/api/emails/{email_id:id}/resolve', response_model=EmailState,
    responses=state_answers('It is not uncertain.'), operation_id='resolve_email',
)  # fmt: skip
async def resolve_one(
    api: Parts, principal: Operator, email_id: EmailId, body: ResolveBody
) -> Response:
    """Decide about an uncertain e-mail: it did arrive, or it is given up."""
    await require_visible(api.servers, principal, email_id)

    async def do() -> Done:
        done = await resolve_emails(api.servers, [email_id], body.decision)
        return done.resolved, done.unchanged, ()

    details = {'reason': body.reason, 'decision': body.decision}
    state, problems = await _decide(api.servers, principal, email_id, 'resolve', do, details)
    return json_answer(state | {'problems': told(problems)})
