"""Workers and queues: what `celery_app.control.inspect()` gave."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from actions.tokens import ApiScope
from reporting.inspection import Inspection, inspect_workers
from reporting.live import Audience, read_database, read_fleet_now
from reporting.overview import mark_foreign
from reporting.problems import NOBODY_REPLIED, ProblemError, is_alive, queue_problems
from web.api.access import Principal, require
from web.api.answers import json_answer, refusals, told
from web.api.documents import Inspected, Queues, Workers
from web.api.emails import Parts
from web.api.fields import ShortText, whole_number
from web.api.problem import Refusal, RefusalError

router = APIRouter(prefix='/api', tags=['workers'])

Word = Literal['active', 'scheduled', 'reserved', 'stats']


async def _of_installation(
    principal: Annotated[Principal, Depends(require(ApiScope.READ))],
) -> Principal:
    return refuse_bound(principal)


def refuse_bound(principal: Principal) -> Principal:
    """Refuse tokens of an organisation, for what is everybody's: workers, queues, templates.

    Raises:
        RefusalError: 403.
    """
    if principal.organization_id is None:
        return principal
    raise RefusalError(
        Refusal(
            HTTPStatus.FORBIDDEN,
            'bound-to-organization',
            f'the token {principal.name} sees only e-mails of '
            f'organization {principal.organization_id}',
            'ask with a token that is bound to none',
        )
    )


Onlooker = Annotated[Principal, Depends(_of_installation)]


@router.get('/workers', response_model=Workers, responses=refusals(), operation_id='list_workers')
async def list_workers(api: Parts, _: Onlooker) -> Response:
    """List the workers as they registered, at most seconds ago."""
    fleet = await api.servers.ask_redis(read_fleet_now)
    mark_foreign(fleet['workers'], await read_database(api.servers))
    problems = [] if is_alive(fleet) else [NOBODY_REPLIED]
    return json_answer({'workers': fleet['workers'], 'problems': told(problems)})


@router.get('/queues', response_model=Queues, responses=refusals(), operation_id='list_queues')
async def list_queues(api: Parts, _: Onlooker) -> Response:
    """List the queues in Redis: how many jobs wait, and whether anybody serves them."""
    fleet = await api.servers.ask_redis(read_fleet_now)
    return json_answer({'queues': fleet['queues'], 'problems': told(queue_problems(fleet))})


class InspectQuery(BaseModel):
    """Whom to ask, and how much to tell."""

    model_config = ConfigDict(extra='forbid')

    worker: list[ShortText] = Field(
        default=[], max_length=50, description='Only these; * stands for anything.'
    )
    limit: Annotated[int, BeforeValidator(whole_number)] = Field(
        default=100, ge=1, le=10_000, description='E-mails and jobs at most.'
    )


@router.get(
    '/inspect/{word}', response_model=Inspected, responses=refusals(), operation_id='inspect'
)
async def inspect_word(
    api: Parts, _: Onlooker, word: Word, query: Annotated[InspectQuery, Query()]
) -> Response:
    """Tell what is being sent, is due later, was taken; and statistics of the last hour and day."""
    asked = Inspection(word, Audience(query.worker or None), query.limit, asks=False)
    document, problems = await inspect_workers(api.servers, asked)
    if all(part is None for name, part in document.items() if name != 'inspect'):
        raise ProblemError(problems[0])
    return json_answer(document | {'problems': told(problems)})
