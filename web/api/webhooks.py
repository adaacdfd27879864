"""Webhooks over HTTP: where events go, what became of each, and posting them again."""

from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from actions.audit import audited
from actions.safety import RequestError
from actions.tokens import ApiScope
from actions.webhooks import (
    ReplayTimes,
    add_endpoint,
    known_endpoint,
    post_test,
    remove_endpoint,
    replay_deliveries,
    rotate_endpoint_secret,
    switch_endpoint,
)
from db.selection import read_clock
from db.times import Row
from db.webhook_capture import WebhookEvent
from db.webhook_replays import read_deliveries
from db.webhooks import read_webhooks
from web.api.access import Principal, require
from web.api.answers import OF_A_BODY, json_answer, refusals
from web.api.decisions import DecisionBody, OptionalBody, actor_of
from web.api.emails import Parts
from web.api.fields import Cursor, ShortText, Time, one_of, text_up_to, whole, whole_number
from web.api.parts import Api
from web.api.problem import Refusal, RefusalError
from web.api.webhook_documents import (
    WebhookCreated,
    WebhookDeliveries,
    WebhookId,
    WebhookReplayed,
    Webhooks,
    WebhookSecret,
    WebhookTested,
)

router = APIRouter(prefix='/api/webhooks', tags=['webhooks'])

MOST_SHOWN = 200
LARGEST_ID = 10**15  # exact in every JSON parser
DAY = timedelta(days=1)

Reader = Annotated[Principal, Depends(require(ApiScope.READ))]
Operator = Annotated[Principal, Depends(require(ApiScope.OPERATE))]
Administrator = Annotated[Principal, Depends(require(ApiScope.ADMINISTER))]
Identifier = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The webhook's id.")]
NO_SUCH = {404: 'There is no such webhook, or it is not yours.'}


class NewWebhookBody(BaseModel):
    """Where events go, and which."""

    model_config = ConfigDict(extra='forbid', strict=True)

    url: Annotated[str, text_up_to(2000)] = Field(description='https://..., without a password.')
    event_types: list[Annotated[str, one_of(WebhookEvent)]] = Field(
        default=[], max_length=len(WebhookEvent), description='Only these; none: all.'
    )
    description: ShortText | None = None


class ReplayBody(DecisionBody):
    """Which deliveries: some ids; without any, all that are dead of a time."""

    deliveries: list[Annotated[int, Field(ge=1, le=LARGEST_ID), BeforeValidator(whole)]] = Field(
        default=[], max_length=1000
    )
    since: Time | None = Field(default=None, description='null: the last day')
    until: Time | None = None
    with_delivered: bool = Field(default=False, description='Not only those that are dead.')


class DeliveriesQuery(BaseModel):
    """Which deliveries are listed."""

    model_config = ConfigDict(extra='forbid')

    status: Annotated[str, one_of(('waiting', 'delivered', 'dead'))] | None = None
    limit: Annotated[int, BeforeValidator(whole_number)] = Field(default=50, ge=1, le=MOST_SHOWN)
    cursor: Cursor | None = None


async def _visible(api: Api, principal: Principal, webhook_id: int) -> Row:
    """Return a webhook that is the organisation's of who asks."""
    try:
        return await known_endpoint(api.servers, webhook_id, principal.organization_id)
    except RequestError as error:
        raise RefusalError(
            Refusal(
                HTTPStatus.NOT_FOUND,
                'no-such-webhook',
                error.problem.what,
                'GET /api/webhooks lists them',
            )
        ) from error


@router.get('', response_model=Webhooks, responses=refusals(), operation_id='list_webhooks')
async def list_webhooks(api: Parts, principal: Reader) -> Response:
    """List where events go, and how that goes."""
    reading = partial(read_webhooks, organization_id=principal.organization_id)
    return json_answer({'webhooks': await api.servers.ask_postgres(reading)})


@router.post(
    '', response_model=WebhookCreated, status_code=HTTPStatus.CREATED,
    responses=refusals(OF_A_BODY), operation_id='create_webhook',
)  # fmt: skip
async def create_webhook(api: Parts, principal: Administrator, body: NewWebhookBody) -> Response:
    """Post events from now on; the answer has the secret, this once."""
    asked = body.model_dump(mode='json', exclude_none=True)
    async with audited(api.servers, actor_of(principal), 'webhook.create', asked):
        added = await add_endpoint(
            api.servers, body.url, created_by=principal.name,
            event_types=[WebhookEvent(kind) for kind in body.event_types],
            organization_id=principal.organization_id, description=body.description,
        )  # fmt: skip
    return json_answer(
        {'id': added.id, 'secret': added.secret, 'event_types': added.event_types},
        HTTPStatus.CREATED,
    )


async def _change(
    api: Api, principal: Principal, webhook_id: int, action: str, doing: Any, **details: Any
) -> Any:
    """Do something to a webhook, and write it down."""
    await _visible(api, principal, webhook_id)
    asked = {'id': webhook_id, **details}
    async with audited(api.servers, actor_of(principal), f'webhook.{action}', asked):
        return await doing()


@router.delete(
    '/{webhook_id:id}', response_model=WebhookId, responses=refusals(NO_SUCH),
    operation_id='remove_webhook',
)  # fmt: skip
async def delete_webhook(api: Parts, principal: Administrator, webhook_id: Identifier) -> Response:
    """Post nothing more there."""
    doing = partial(remove_endpoint, api.servers, webhook_id)
    await _change(api, principal, webhook_id, 'remove', doing)
    return json_answer({'id': webhook_id})


@router.post(
    '/{webhook_id:id}/rotate', response_model=WebhookSecret, responses=refusals(NO_SUCH),
    operation_id='rotate_webhook_secret',
)  # fmt: skip
async def rotate_webhook(api: Parts, principal: Administrator, webhook_id: Identifier) -> Response:
    """Sign with a new secret, and with the one before as well for a day."""
    doing = partial(rotate_endpoint_secret, api.servers, webhook_id)
    secret = await _change(api, principal, webhook_id, 'rotate', doing)
    return json_answer({'id': webhook_id, 'secret': secret})


@router.post(
    '/{webhook_id:id}/enable', response_model=WebhookId, responses=refusals(NO_SUCH),
    operation_id='enable_webhook',
)  # fmt: skip
async def start_webhook(api: Parts, principal: Administrator, webhook_id: Identifier) -> Response:
    """Post events there again, from now on."""
    doing = partial(switch_endpoint, api.servers, webhook_id, enabled=True)
    await _change(api, principal, webhook_id, 'enable', doing)
    return json_answer({'id': webhook_id})


@router.post(
    '/{webhook_id:id}/disable', response_model=WebhookId, responses=refusals(OF_A_BODY, NO_SUCH),
    operation_id='disable_webhook',
)  # fmt: skip
async def stop_webhook(
    api: Parts, principal: Administrator, webhook_id: Identifier, body: OptionalBody = None
) -> Response:
    """Post no events for now; what happens meanwhile is not told later."""
    reason = body.reason if body else None
    doing = partial(switch_endpoint, api.servers, webhook_id, enabled=False, reason=reason)
    await _change(api, principal, webhook_id, 'disable', doing, reason=reason)
    return json_answer({'id': webhook_id})


@router.post(
    '/{webhook_id:id}/test', response_model=WebhookTested, status_code=HTTPStatus.ACCEPTED,
    responses=refusals(NO_SUCH), operation_id='test_webhook',
)  # fmt: skip
async def try_webhook(api: Parts, principal: Operator, webhook_id: Identifier) -> Response:
    """Have a worker post an event that tells of nothing; its delivery says what came of it."""
    doing = partial(post_test, api.servers, webhook_id)
    delivery_id = await _change(api, principal, webhook_id, 'test', doing)
    return json_answer({'delivery_id': delivery_id}, HTTPStatus.ACCEPTED)


@router.get(
    '/{webhook_id:id}/deliveries', response_model=WebhookDeliveries, responses=refusals(NO_SUCH),
    operation_id='list_webhook_deliveries',
)  # fmt: skip
async def list_deliveries(
    api: Parts,
    principal: Reader,
    webhook_id: Identifier,
    query: Annotated[DeliveriesQuery, Query()],
) -> Response:
    """List what became of events, the newest first."""
    await _visible(api, principal, webhook_id)
    before = min(int(query.cursor), 2**63 - 1) if query.cursor else None
    reading = partial(
        read_deliveries, webhook_id=webhook_id, status=query.status, before_id=before,
        limit=query.limit,
    )  # fmt: skip
    rows = await api.servers.ask_postgres(reading)
    cursor = str(rows[-1]['id']) if len(rows) == query.limit else None
    return json_answer({'deliveries': rows, 'next_cursor': cursor})


@router.post(
    '/{webhook_id:id}/replay', response_model=WebhookReplayed, status_code=HTTPStatus.ACCEPTED,
    responses=refusals(OF_A_BODY, NO_SUCH), operation_id='replay_webhook',
)  # fmt: skip
async def replay_webhook(
    api: Parts, principal: Operator, webhook_id: Identifier, body: ReplayBody
) -> Response:
    """Post deliveries again, each with the id that it had."""
    which: list[int] | ReplayTimes = body.deliveries
    if not body.deliveries:
        now = await api.servers.ask_postgres(read_clock)
        which = ReplayTimes(
            body.since or now - DAY, body.until or now, with_delivered=body.with_delivered
        )
    doing = partial(replay_deliveries, api.servers, webhook_id, which)
    asked = body.model_dump(mode='json', exclude_none=True)
    replayed = await _change(api, principal, webhook_id, 'replay', doing, **asked)
    return json_answer({'replayed': replayed}, HTTPStatus.ACCEPTED)
