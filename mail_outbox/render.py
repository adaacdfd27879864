"""From an e-mail's values to the bytes that follow DATA."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mail_outbox.address_fields import AddressFields, Sender, heads_of, read_address_fields
from mail_outbox.envelope import (
    Attachment,
    Content,
    Email,
    InvalidEmailError,
    check_subject,
)
from mail_outbox.headers import date_field, header, message_id_field, unstructured
from mail_outbox.invitation import calendar_part, check_calendar
from mail_outbox.mime import body_part, multipart
from mail_outbox.raw_message import render_raw
from mail_outbox.rendered import Rendered

if TYPE_CHECKING:
    from mail_outbox.extra_headers import Headers

# Of a body, at most: four bytes of UTF-8, each as =F0, a line end after 24 of them.
BYTES_PER_CHAR = 13
NO_BODY = 'body: there is neither a text nor an HTML body'
RELATED_TO_HTML = b'; type="text/html"'  # RFC 2387, 3.1


def render(email: Email, content: Content, sender: Sender, max_bytes: int) -> Rendered:
    """Render an e-mail with its attachments; its template was filled before.

    The same row renders to the same Message-ID and Date every time, so that a duplicate can be
    recognised.

    Raises:
        InvalidEmailError: an address, header or size is wrong; the message says which.
    """
    if email.raw_message is not None:
        return render_raw(email, email.raw_message, sender, max_bytes)
    addresses = read_address_fields(email)
    # Before it is encoded: that takes memory in proportion.
    _check_size(sum(len(attachment.data) for attachment in content.attachments), max_bytes)
    subject, text, html = _bodies(email)
    try:
        heads = heads_of(addresses, sender, one_copy_each=email.extras.one_copy_each)
        fields = _headers(email, addresses, subject)
        body, texts = _body(email, text, html, content.attachments)
    except (ValueError, LookupError) as error:
        raise (
            error
            if isinstance(error, InvalidEmailError)
            else InvalidEmailError(f'message: {error}')
        ) from error
    message = b''.join([heads.head, fields, body])
    _check_size(len(message), max_bytes)
    envelope = addresses.envelope(sender.address)
    if not texts and heads.is_plain:  # nearly always
        return Rendered(envelope, message, len(heads.head))
    return Rendered(
        envelope,
        message,
        head_bytes=len(heads.head),
        is_international=not heads.head.isascii(),
        ascii_head=heads.ascii_head,
        own_heads=heads.own_heads,
        eight_bit=tuple((len(fields) + begin, len(fields) + end) for begin, end in texts),
    )


def check(email: Email, headers: 'Headers | None', max_bytes: int) -> None:
    """Refuse what render refuses, as far as that does not depend on a template or on attachments.

    Args:
        headers: Extra header fields; those of email are not looked at.
    Raises:
        InvalidEmailError: the message says which part is wrong.
    """
    addresses = read_address_fields(email)
    check_subject(email.subject or '')
    fields: list[tuple[str, bytes]] = []
    if headers:
        from mail_outbox.extra_headers import extra_fields  # noqa: PLC0415 - few e-mails have any

        fields = extra_fields(headers)
        _refuse_twice(addresses, [name for name, _ in fields])
    if email.calendar is not None:
        check_calendar(email.calendar)
    texts = [(email.body_text, 'plain'), (email.body_html, 'html')]
    if email.template_id is None and all(text is None for text, _ in texts):
        raise InvalidEmailError(NO_BODY)
    size_chars = sum(len(text or '') for text, _ in texts)
    # A template may have a part instead of the row's.
    if email.template_id is None and BYTES_PER_CHAR * size_chars > max_bytes:
        body, _ = _body(email, email.body_text, email.body_html, (), eight_bit=False)
        _check_size(len(body) + sum(len(field) for _, field in fields), max_bytes)


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise InvalidEmailError(
            f'message: {size_bytes} bytes, at most {max_bytes} are allowed (EMAIL_MAX_BYTES)'
        )


def _headers(email: Email, addresses: AddressFields, subject: str) -> bytes:
    """Return all header fields but those with addresses, and those of the content."""
    fields = {
        'Subject': header('Subject', unstructured(subject), 'subject'),
        'Date': date_field(email.message_date) if email.message_date else b'',
        'Message-ID': message_id_field(email.message_id),
        # RFC 3834: nobody's out-of-office reply should answer a machine.
        'Auto-Submitted': b'Auto-Submitted: auto-generated\r\n',
        'MIME-Version': b'MIME-Version: 1.0\r\n',
    }
    if email.headers is not None:
        from mail_outbox.extra_headers import stored_fields  # noqa: PLC0415 - few e-mails have any

        extra = stored_fields(email.headers)
        replaced = {name.lower() for name, _ in extra}
        _refuse_twice(addresses, replaced)
        kept = (field for name, field in fields.items() if name.lower() not in replaced)
        return b''.join([*kept, *(field for _, field in extra)])
    return b''.join(fields.values())


def _refuse_twice(addresses: AddressFields, extra: Collection[str]) -> None:
    if addresses.reply_to and any(name.lower() == 'reply-to' for name in extra):
        raise InvalidEmailError('reply_to: headers has a Reply-To as well')


def _body(
    email: Email,
    text: str | None,
    html: str | None,
    attachments: Sequence[Attachment],
    *,
    eight_bit: bool = True,
) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the content's header fields, an empty line and the content; and where 8 bits are.

    mixed: [alternative: [text, related: [HTML, what it refers to], calendar], files]; a level with
    one part is left out.
    """
    if text is None and html is None:
        raise InvalidEmailError(NO_BODY)
    # Beside another part, one with nothing in it is what a reader might show instead.
    if html is not None and text is not None and not (html.strip() and text.strip()):
        text, html = (text, None) if text.strip() or not html.strip() else (None, html)
    inline, files = _parts(html, attachments)
    texts = [] if text is None else [body_part(text, 'plain', eight_bit=eight_bit)]
    if html is not None:
        texts.append(body_part(html, 'html', eight_bit=eight_bit))
    bodies = texts[:]
    if inline:
        related = [bodies[-1], *inline]
        bodies[-1] = multipart('related', related, email.message_id, RELATED_TO_HTML)
    if email.calendar is not None:
        texts.append(calendar_part(email.calendar, eight_bit=eight_bit))
        bodies.append(texts[-1])
    body = bodies[0] if len(bodies) == 1 else multipart('alternative', bodies, email.message_id)
    if files:
        body = multipart('mixed', [body, *files], email.message_id)
    return body, [] if body.isascii() else _places(body, texts)


def _parts(html: str | None, attachments: Sequence[Attachment]) -> tuple[list[bytes], list[bytes]]:
    """Return the attachments that are parts of the HTML, and the other files, as parts."""
    if not attachments:
        return [], []
    from mail_outbox.attachment_parts import parts_by_place  # noqa: PLC0415 - most e-mails have none

    return parts_by_place(html, attachments)


def _places(body: bytes, texts: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return where those of the texts begin and end that are in 8 bits."""
    places, end = [], 0
    for part in texts:
        # They come in this order, and only ASCII stands between them.
        if not part.isascii():
            begin = body.index(part, end)
            end = begin + len(part)
            places.append((begin, end))
    return places


def _bodies(email: Email) -> tuple[str, str | None, str | None]:
    """Return subject, text and HTML."""
    subject, text, html = email.subject or '', email.body_text, email.body_html
    check_subject(subject)
    return subject, text, html
