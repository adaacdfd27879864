"""What a renderer is asked: a template and its data, as one frame."""

import asyncio
from collections.abc import Mapping

import orjson

from mail.template.process import LENGTH, Request
from mail_outbox.envelope import Email, InvalidEmailError, Template

UNSUBSCRIBE_URL = 'unsubscribe_url'  # a variable, where the e-mail has such a link
MAX_REQUEST_BYTES = 16 * 2**20  # a template and its data

# Subject, text, HTML; None where the template has no such part.
Filled = tuple[str | None, str | None, str | None]


def make_request(
    number: int,
    template: Template,
    data: str | None,
    locale: str | None,
    own: Mapping[str, str],
    *,
    check: bool,
) -> Request:
    """Return a request, whose answer is still to come.

    Args:
        own: Variables of ours; those in the data go before.

    Raises:
        InvalidEmailError: it is too large, or no text.
    """
    sources = (template.subject, template.body_text, template.body_html)
    size = sum(len(text) for text in (*sources, template.pushed, data) if text)
    if size > MAX_REQUEST_BYTES:
        raise InvalidEmailError(
            f'template: it has {size} characters with its data, too many to fill'
        )
    asked = sources if template.pushed is None else (template.pushed, locale, check)
    try:
        written = orjson.dumps([number, *asked, own, data])
    except TypeError as error:  # half a character
        raise InvalidEmailError(f'template: {error}') from error
    key = hash((asked, len(data or '').bit_length()))
    frame = LENGTH.pack(len(written)) + written
    answer = asyncio.get_running_loop().create_future()
    return Request(number, frame, key, answer, wants_all=template.pushed is not None)


def with_parts(email: Email, filled: Filled) -> Email:
    """Return the e-mail with the template's parts where it has them, its own otherwise."""
    subject, text, html = filled
    return email._replace(
        subject=email.subject if subject is None else subject,
        body_text=email.body_text if text is None else text,
        body_html=email.body_html if html is None else html,
    )
