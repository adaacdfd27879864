"""Templates that are kept in files: push them, list them, and see what comes of one."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from actions.audit import audited
from actions.template_preview import UnknownTemplateError, preview_template
from actions.templates import push_templates, read_template_versions
from actions.tokens import ApiScope
from db.templates import list_templates
from mail_outbox.locales import LOCALE, MAX_LOCALE_CHARS
from web.api.access import Principal, require
from web.api.answers import OF_A_BODY, json_answer, refusals
from web.api.decisions import actor_of
from web.api.emails import Parts
from web.api.fields import whole
from web.api.fleet import refuse_bound
from web.api.problem import Refusal, RefusalError

router = APIRouter(prefix='/api/templates', tags=['templates'])

MOST_LISTED = 1000
MAX_PUSH_BYTES = 2 * 1024 * 1024

Name = Annotated[str, Path(pattern=r'^[^\x00/]{1,100}$', description='Its name or its id.')]
LocaleTag = Annotated[str, StringConstraints(max_length=MAX_LOCALE_CHARS, pattern=LOCALE)]


class TemplateList(BaseModel):
    """All templates, by name."""

    templates: list[dict[str, Any]] = Field(description='version is null where none was pushed.')


class TemplateVersions(BaseModel):
    """A template with its versions, the newest first, and what previews are filled with."""

    id: str
    name: str | None
    versions: list[dict[str, Any]]
    sample: dict[str, Any]


class TemplatesPushed(BaseModel):
    """What was pushed, or would be."""

    dry_run: bool
    templates: list[dict[str, Any]]


class PreviewShown(BaseModel):
    """What an e-mail with it would say; null: the e-mail's own."""

    id: str
    subject: str | None
    text: str | None
    html: str | None


class PushBody(BaseModel):
    """A set of templates."""

    model_config = ConfigDict(extra='forbid', strict=True)

    files: dict[str, str] = Field(description='Texts by their paths, such as welcome/body.html.')
    dry_run: bool = False


class PreviewBody(BaseModel):
    """How it is to be filled."""

    model_config = ConfigDict(extra='forbid', strict=True)

    locale: LocaleTag | None = None
    version: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(whole)] | None = None
    data: dict[str, Any] | None = Field(None, description='Without it the sample that was pushed.')


NO_SUCH = {404: 'There is no such template, or not in this version.'}


@contextlib.contextmanager
def _known() -> Iterator[None]:
    """Answer that there is no such template."""
    try:
        yield
    except UnknownTemplateError as error:
        refusal = Refusal(
            HTTPStatus.NOT_FOUND, 'no-such-template', error.problem.what,
            'GET /api/templates lists them',
        )  # fmt: skip
        raise RefusalError(refusal) from error


def _may(scope: ApiScope) -> Any:
    async def principal_of(
        principal: Annotated[Principal, Depends(require(scope))],
    ) -> Principal:
        return refuse_bound(principal)

    return Depends(principal_of)


Reader = Annotated[Principal, _may(ApiScope.READ)]
Pusher = Annotated[Principal, _may(ApiScope.ADMINISTER)]


@router.get('', response_model=TemplateList, responses=refusals(), operation_id='list_templates')
async def list_all(api: Parts, _: Reader) -> Response:
    """List the templates: id, name, newest version and its locales."""
    rows = await api.servers.ask_postgres(partial(list_templates, limit=MOST_LISTED))
    return json_answer({'templates': rows})


@router.get(
    '/{name}', response_model=TemplateVersions, responses=refusals(NO_SUCH),
    operation_id='read_template',
)  # fmt: skip
async def tell_versions(api: Parts, _: Reader, name: Name) -> Response:
    """Tell the versions of one."""
    with _known():
        return json_answer(await read_template_versions(api.servers, name))


@router.put(
    '', response_model=TemplatesPushed, responses=refusals(OF_A_BODY),
    max_body_size=MAX_PUSH_BYTES, operation_id='push_templates',
)  # fmt: skip
async def push(api: Parts, principal: Pusher, body: PushBody) -> Response:
    """Check a set of files with their samples, all of it; then store what changed."""
    pushing = partial(
        push_templates, api.servers, body.files, pushed_by=principal.name, dry_run=body.dry_run
    )
    if body.dry_run:
        return json_answer(asdict(await pushing()))
    details = {'files': len(body.files)}
    async with audited(api.servers, actor_of(principal), 'template.push', details):
        done = await pushing()
    return json_answer(asdict(done))


@router.post(
    '/{name}/preview', response_model=PreviewShown, responses=refusals(OF_A_BODY, NO_SUCH),
    operation_id='preview_template',
)  # fmt: skip
async def preview_stored(
    api: Parts, _: Reader, name: Name, body: Annotated[PreviewBody | None, Body()] = None
) -> Response:
    """Fill one as a worker would."""
    asked = body or PreviewBody()
    with _known():
        shown = await preview_template(
            api.servers, name, locale=asked.locale, version=asked.version, data=asked.data
        )
    return json_answer(asdict(shown))
