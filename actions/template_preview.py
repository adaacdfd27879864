"""What an e-mail with a template would say, and one sent as a test."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from actions.safety import RequestError, agree
from actions.test_mail import queue_at_once
from db.content import WantedTemplate, fetch_templates, find_templates
from db.templates import read_sample
from mail.template.asking import UNSUBSCRIBE_URL, Filled
from mail.template.renderers import Templates, TemplatesUnavailableError
from mail_outbox.envelope import MAX_MESSAGE_BYTES, InvalidEmailError, Template
from mail_outbox.field_checks import checked_id
from mail_outbox.locales import checked_locale
from mail_outbox.validation import EmailValues
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers

TEST_TYPE = 'template-test'
SHOWN_URL = 'https://example.com/unsubscribe/preview'  # for a link that only an e-mail has
SEE_LIST = 'see `python -m ops template ls`'


class UnknownTemplateError(RequestError):
    """There is no such template, or not in this version."""


@asynccontextmanager
async def renderers() -> AsyncIterator[Templates]:
    """Fill templates as a worker does: in processes that the kernel limits."""
    templates = Templates(MAX_MESSAGE_BYTES)
    try:
        yield templates
    finally:
        await templates.close()


async def filled_template(
    templates: Templates, template: Template, data: str, locale: str | None, *, check: bool
) -> Filled:
    """Fill a template for a person.

    Raises:
        RequestError: says what is wrong with it; ProblemError: no renderer could be had.
    """
    try:
        return await templates.fill(
            template, data, locale=locale, unsubscribe_url=SHOWN_URL, check=check
        )
    except InvalidEmailError as error:
        raise RequestError(str(error), 'correct it, and what it is filled with') from error
    except TemplatesUnavailableError as error:
        raise ProblemError(
            Problem(str(error), 'try again; see the memory of the machine')
        ) from error


async def template_of(servers: Servers, word: str) -> str:
    """Return the id of a template given by id or by name.

    Raises:
        UnknownTemplateError: there is none.
    """
    try:
        checked_id('template', word)
        word.encode()
    except ValueError as error:
        raise UnknownTemplateError(f'{word[:80]!a} is no name of a template', SEE_LIST) from error
    [found] = await servers.ask_postgres(partial(find_templates, words=[word]))
    if found is None:
        raise UnknownTemplateError(f'there is no template {word[:80]!r}', SEE_LIST)
    return found


@dataclass(frozen=True, slots=True)
class TemplatePreview:
    """What an e-mail with this template would say."""

    id: str
    subject: str | None  # None of each part: the e-mail's own
    text: str | None
    html: str | None


async def preview_template(
    servers: Servers,
    word: str,
    *,
    locale: str | None = None,
    version: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> TemplatePreview:
    """Fill a template as a worker would.

    Args:
        data: None: the sample that was pushed with it.
    Raises:
        RequestError: there is no such template or version, or it cannot be filled with this.
    """
    template_id = await template_of(servers, word)
    wanted = WantedTemplate(template_id, _locale(locale), version)
    [template] = await servers.ask_postgres(partial(fetch_templates, wanted=[wanted]))
    if template is None:
        raise UnknownTemplateError(f'{word} has no version {version}', SEE_LIST)
    given = json.dumps(data) if data is not None else await _sample(servers, template_id, version)
    async with renderers() as templates:
        filled = await filled_template(templates, template, given, wanted.locale, check=False)
    return TemplatePreview(template_id, *filled)


def _locale(given: str | None) -> str | None:
    try:
        return None if given is None else checked_locale('locale', given)
    except InvalidEmailError as error:
        raise RequestError(str(error), 'give a language tag') from error


async def _sample(servers: Servers, template_id: str, version: int | None) -> str:
    reading = partial(read_sample, template_id=template_id, version=version)
    return await servers.ask_postgres(reading) or '{}'


async def send_test(
    servers: Servers,
    word: str,
    recipient: str,
    *,
    locale: str | None = None,
    version: int | None = None,
    data: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    confirm: Callable[[str], None] = agree,
) -> int | None:
    """Queue one e-mail with a template, as an application would; a worker sends it.

    Args:
        confirm: Gets the recipient.
    Returns:
        Its id; None of a dry run.
    Raises:
        RequestError: the template cannot be filled, or the address is none.
    """
    shown = await preview_template(servers, word, locale=locale, version=version, data=data)
    if data is None:
        data = json.loads(await _sample(servers, shown.id, version))
    # Its type has no links.
    data = {UNSUBSCRIBE_URL: SHOWN_URL, **data}
    email: EmailValues = {
        'recipient': recipient, 'template_id': int(shown.id) if shown.id.isdecimal() else shown.id,
        'template_data': data, 'locale': locale, 'template_version': version,
        'email_type': TEST_TYPE, 'priority': 'high', 'expiry_hours': 1,
    }  # fmt: skip
    if dry_run:
        return None
    confirm(recipient)

    try:
        return await servers.ask_postgres(partial(queue_at_once, email=email))
    except InvalidEmailError as error:
        raise RequestError(str(error), 'correct it') from error
