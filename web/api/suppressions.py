"""Who gets no mail, or none of a type: list, put on the list, take off it."""

from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from actions.audit import audited
from actions.suppress import suppress_addresses, unsuppress_addresses
from actions.tokens import ApiScope
from db.suppressions import read_suppressions, suppression_key
from mail_outbox.envelope import InvalidEmailError
from web.api.access import Principal, require
from web.api.answers import OF_A_BODY, json_answer, refusals
from web.api.decisions import actor_of
from web.api.emails import Parts
from web.api.fields import Address, Reason, ShortText, whole, whole_number
from web.api.fleet import refuse_bound
from web.api.problem import Refusal, RefusalError

router = APIRouter(prefix='/api/suppressions', tags=['suppressions'])

MOST_LISTED = 1000
MOST_ADDED, MOST_REMOVED = 100, 10  # in a body of 64 KiB, in a URL
DAY_S = 86400
# Only described: what is none is refused in our words.
Key = Annotated[Address, Field(json_schema_extra={'format': 'envelope-address'})]
KEY = 'An address, or @example.com: everybody there.'
TYPE = 'A type of e-mail; without it, all mail.'


class Suppression(BaseModel):
    """An entry of the list."""

    address: str
    email_type: str | None = Field(description='null: all mail')
    reason: str
    source: str = Field(description='operator, bounce, complaint, unsubscribe')
    created_at: str
    created_by: str | None
    expires_at: str | None = Field(description='null: for good')
    is_over: bool


class Suppressions(BaseModel):
    """Entries, the newest first."""

    suppressions: list[Suppression]
    total: int


class SuppressionsQuery(BaseModel):
    """Which entries; conditions that must all be true."""

    model_config = ConfigDict(extra='forbid')

    address: Key | None = Field(None, description='Those that an e-mail to it is asked for.')
    email_type: ShortText | None = None
    source: ShortText | None = None
    limit: Annotated[int, BeforeValidator(whole_number)] = Field(
        default=100, ge=1, le=MOST_LISTED, description='Entries at most.'
    )


class SuppressionBody(BaseModel):
    """Whom to send nothing more."""

    model_config = ConfigDict(extra='forbid', strict=True)

    addresses: list[Key] = Field(min_length=1, max_length=MOST_ADDED, description=KEY)
    reason: Reason
    email_type: ShortText | None = Field(None, description=TYPE)
    days: Annotated[int, Field(ge=1, le=36500), BeforeValidator(whole)] | None = Field(
        None, description='For so long; without it, for good.'
    )


class SuppressionAdded(BaseModel):
    """What was put on the list; what stood there has the new reason and the new end."""

    added: list[str]
    changed: list[str]
    expires_at: str | None


class SuppressionQuery(BaseModel):
    """Whom to send mail again."""

    model_config = ConfigDict(extra='forbid')

    address: Annotated[list[Key], Field(min_length=1, max_length=MOST_REMOVED)] = Field(
        description=KEY
    )
    email_type: ShortText | None = Field(None, description=TYPE)


class SuppressionRemoved(BaseModel):
    """What was taken off the list, and what did not stand there."""

    removed: list[str]
    missing: list[str]


def _may(scope: ApiScope) -> object:
    async def principal_of(
        principal: Annotated[Principal, Depends(require(scope))],
    ) -> Principal:
        return refuse_bound(principal)  # the list is for the mail of every organisation

    return Depends(principal_of)


Reader = Annotated[Principal, _may(ApiScope.READ)]
Operator = Annotated[Principal, _may(ApiScope.OPERATE)]


@router.get('', response_model=Suppressions, responses=refusals(), operation_id='list_suppressions')
async def list_suppressions(
    api: Parts, _: Reader, query: Annotated[SuppressionsQuery, Query()]
) -> Response:
    """List who gets no mail."""
    reading = partial(
        read_suppressions, source=query.source, email_type=query.email_type, limit=query.limit,
        concerning=None if query.address is None else _key_of(query.address),
    )  # fmt: skip
    total, rows = await api.servers.ask_postgres(reading)
    return json_answer({'suppressions': rows, 'total': total})


@router.post(
    '', response_model=SuppressionAdded, responses=refusals(OF_A_BODY),
    operation_id='add_suppressions',
)  # fmt: skip
async def add_suppressions(api: Parts, principal: Operator, body: SuppressionBody) -> Response:
    """Send nothing more to these, or nothing of a type."""
    keys = [_key_of(address) for address in body.addresses]
    asked = {
        'addresses': keys, 'kind': body.email_type, 'reason': body.reason, 'days': body.days
    }  # fmt: skip
    async with audited(api.servers, actor_of(principal), 'suppression.add', asked):
        done = await suppress_addresses(
            api.servers, keys, body.reason, created_by=principal.name,
            for_s=None if body.days is None else body.days * DAY_S, email_type=body.email_type,
        )  # fmt: skip
    return json_answer(
        {'added': done.added, 'changed': done.changed, 'expires_at': done.expires_at}
    )


@router.delete(
    '', response_model=SuppressionRemoved, responses=refusals(), operation_id='remove_suppressions'
)
async def remove_suppressions(
    api: Parts, principal: Operator, query: Annotated[SuppressionQuery, Query()]
) -> Response:
    """Take these off the list; what was not sent stays so."""
    keys = [_key_of(address) for address in query.address]
    asked = {'addresses': keys, 'kind': query.email_type}
    async with audited(api.servers, actor_of(principal), 'suppression.remove', asked):
        done = await unsuppress_addresses(api.servers, keys, email_type=query.email_type)
    document = asdict(done)
    return json_answer({'removed': document['removed'], 'missing': document['missing']})


def _key_of(address: str) -> str:
    try:
        return suppression_key(address)
    except InvalidEmailError as error:
        what = f'{address[:80]!r} is neither an address nor @ and a domain'
        raise RefusalError(
            Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, 'invalid', what, 'correct it')
        ) from error
