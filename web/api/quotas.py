"""Quotas: what organisations may queue in a day, and have queued."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from actions.tokens import ApiScope
from db.quotas import read_quotas
from web.api.access import Principal, require
from web.api.answers import json_answer, refusals
from web.api.emails import Parts
from web.api.fields import whole_number

router = APIRouter(prefix='/api', tags=['quotas'])


class Quotas(BaseModel):
    """What organisations may queue in a day, the fullest first."""

    quotas: list[dict[str, Any]]
    total: int


class QuotasQuery(BaseModel):
    """How many to tell."""

    model_config = ConfigDict(extra='forbid')

    limit: Annotated[int, BeforeValidator(whole_number)] = Field(
        default=100, ge=1, le=1000, description='Quotas at most.'
    )


@router.get('/quotas', response_model=Quotas, responses=refusals(), operation_id='list_quotas')
async def list_quotas(
    api: Parts,
    principal: Annotated[Principal, Depends(require(ApiScope.READ))],
    query: Annotated[QuotasQuery, Query()],
) -> Response:
    """List quotas and what is queued today; `*` stands for organisations without one of their own.

    A token of an organisation sees its own.
    """
    reading = partial(read_quotas, limit=query.limit, organization_id=principal.organization_id)
    total, rows = await api.servers.ask_postgres(reading)
    return json_answer({'quotas': rows, 'total': total})
