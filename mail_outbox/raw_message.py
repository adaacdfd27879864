"""A message that is given as MIME: sent as it is, but for Bcc and what is missing.

Nothing in it is decoded or written anew: what is signed stays signed. Line ends become CRLF, Bcc
goes, and a Message-ID and a Date are put before it where there are none (RFC 6409, 8.2 and 8.3), by
which a second copy can be known.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mail_outbox.address_fields import (
    AddressFields,
    Sender,
    named_senders,
    read_address_fields,
)
from mail_outbox.envelope import (
    MAX_RECIPIENTS,
    Email,
    InvalidEmailError,
    Recipient,
    parse_addresses,
)
from mail_outbox.headers import GIVEN_MESSAGE_ID, MAX_LINE_CHARS, date_field, message_id_field
from mail_outbox.mime import CHUNK
from mail_outbox.rendered import Rendered
from mail_outbox.shown_subject import shown_subject

MAX_HEAD_BYTES = 128 * 1024
# Reading a byte of a header takes as long as encoding so many of a body.
HEAD_BYTE_BYTES = 16
# Doubling the dots of more lines (RFC 5321, 4.5.2) would hold up everybody else.
MAX_LEADING_DOTS = 100_000
NO_LINE_END = 'raw: contains a NUL, or a CR without its LF (RFC 5321, 2.3.8): encode it in base64'
ANYBODY = Sender('somebody@example.com')  # who an e-mail is from whose row does not say
SOMEBODY = 'somebody@example.com'  # who is to get it, the message says
FIELD = re.compile(rb'([!-9;-~]+):(.*)', re.DOTALL)  # RFC 5322, 2.2
HIDDEN = frozenset({'bcc', 'resent-bcc'})
# Who says that it is his: also each who has sent it on, which may have happened several times (RFC
# 5322, 3.6.6).
WRITERS = ('from', 'sender', 'resent-from', 'resent-sender')
# RFC 5322, 3.6; RFC 2045. Readers do not agree which of two counts: a way to forge.
ONCE_IN_MESSAGE = frozenset({
    'from', 'sender', 'reply-to', 'to', 'cc', 'bcc', 'subject', 'date', 'message-id',
    'in-reply-to', 'references', 'mime-version', 'content-type', 'content-transfer-encoding',
})  # fmt: skip


class RawHead(NamedTuple):
    """The header of a message, and where its body begins.

    Attributes:
        lines: Each field with its name in lower case, as it stands, line ends LF, without the last.
        body_at: Of the given data.
    """

    lines: Sequence[tuple[str, bytes]]
    body_at: int

    def texts(self, name: str) -> Iterator[str]:
        """Yield the text of each field of a name, unfolded."""
        for field, line in self.lines:
            if field == name:
                yield line.partition(b':')[2].replace(b'\n', b'').decode().strip()

    def text(self, name: str) -> str:
        """Return a field's text, unfolded; '' where there is none."""
        return next(self.texts(name), '')

    def addresses(self, name: str) -> list[Recipient]:
        """Return the addresses of all fields of a name.

        Raises:
            InvalidEmailError: names the field.
        """
        return [
            found
            for text in self.texts(name)
            if text
            for found in parse_addresses(f'raw: {name}', text, may_be_empty=True)
        ]


def read_raw_head(data: bytes) -> RawHead:
    """Read the header of a message as given.

    Raises:
        InvalidEmailError: says what is wrong; it cannot be sent as it is.
    """
    fields: list[tuple[str, list[bytes]]] = []
    position = 0
    while True:
        end = data.find(b'\n', position, MAX_HEAD_BYTES + 1)
        if end < 0 and len(data) > MAX_HEAD_BYTES:
            raise InvalidEmailError(f'raw: the header has more than {MAX_HEAD_BYTES} bytes')
        next_at = len(data) if end < 0 else end + 1
        line = data[position:next_at].removesuffix(b'\n').removesuffix(b'\r')
        if not line:
            break
        _take(line, fields)
        position = next_at
    lines = [(name, b'\n'.join(parts)) for name, parts in fields]
    _check_fields(lines)
    return RawHead(lines, next_at)


def _take(line: bytes, fields: list[tuple[str, list[bytes]]]) -> None:
    """Take a line of the header: a field, or what goes on with the one before."""
    if line[:1] in b' \t' and fields:
        fields[-1][1].append(line)
        return
    field = FIELD.fullmatch(line)
    if field is None:
        raise InvalidEmailError(f'raw: {line[:80]!r} in the header is no header field')
    fields.append((field[1].decode().lower(), [line]))


def _check_fields(lines: Sequence[tuple[str, bytes]]) -> None:
    names = [name for name, _ in lines]
    if 'from' not in names:
        raise InvalidEmailError('raw: has no From field')
    for name, line in lines:
        if name in ONCE_IN_MESSAGE and names.count(name) > 1:
            raise InvalidEmailError(f'raw: has the field {name} twice')
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise InvalidEmailError(
                f'raw: the field {name} is neither ASCII nor UTF-8 (RFC 6532)'
            ) from error


def raw_address_fields(head: RawHead) -> AddressFields:
    """Return who a message is from and to by its own fields.

    Raises:
        InvalidEmailError: a field has no address, or what is none.
    """
    writers = head.addresses('from')
    sender = next(iter(head.addresses('sender')), None)
    if not writers:
        raise InvalidEmailError('raw: From has no address')
    if len(writers) > 1 and sender is None:
        raise InvalidEmailError('raw: From has several addresses, and there is no Sender')
    return AddressFields(
        from_=writers[0],
        sender=sender,
        return_path=None,
        reply_to=(),
        to=head.addresses('to'),
        cc=head.addresses('cc'),
        bcc=head.addresses('bcc'),
    )


def own_senders(email: Email) -> Iterator[tuple[str, str]]:
    """Yield the addresses that somebody has to allow an e-mail, each with the name of its field.

    Raises:
        InvalidEmailError: one is no address.
    """
    if email.raw_message is not None:
        head = read_raw_head(email.raw_message)
        for name in WRITERS:
            writers = head.addresses(name)
            if len(writers) > MAX_RECIPIENTS:
                raise InvalidEmailError(f'raw: {name}: {len(writers)} addresses')
            for writer in writers:
                yield f'raw: {name}', writer.address
    yield from named_senders(email.extras)


def check_raw(email: Email, data: Any, max_bytes: int) -> Email:
    """Return an e-mail that is given as MIME, with what its row says besides.

    That is to whom, its Message-ID, and the subject by which people find it.

    Raises:
        InvalidEmailError: what render_raw refuses.
    """
    if not isinstance(data, bytes):
        raise InvalidEmailError(f'raw: must be bytes, not {type(data).__name__}')
    done = render_raw(email, data, ANYBODY, max_bytes)
    head = read_raw_head(data)
    message_id = head.text('message-id')
    return email._replace(
        raw_message=data,
        subject=shown_subject(head.text('subject')),
        recipient=email.recipient
        if email.recipient.strip()
        else ', '.join(done.envelope.recipients),
        message_id=message_id if GIVEN_MESSAGE_ID.fullmatch(message_id) else '',
    )


def render_raw(email: Email, data: bytes, default: Sender, max_bytes: int) -> Rendered:
    """Return a message as given, as it travels.

    Raises:
        InvalidEmailError: it cannot be sent as it is; says why.
    """
    if len(data) > max_bytes:
        raise InvalidEmailError(
            f'raw: {len(data)} bytes, at most {max_bytes} are allowed (EMAIL_MAX_BYTES)'
        )
    head = read_raw_head(data)
    envelope = raw_addresses(email, head).envelope(default.address)
    names = {name for name, _ in head.lines}
    missing = b''
    if 'date' not in names and email.message_date:
        missing += date_field(email.message_date)
    if 'message-id' not in names:
        missing += message_id_field(email.message_id)
    lines, body = _as_it_travels(data, head)
    return Rendered(
        envelope,
        missing + lines + body,
        is_international=not lines.isascii(),
        eight_bit=() if body.isascii() else None,
    )


def raw_addresses(email: Email, head: RawHead) -> AddressFields:
    """Return who it is from and to: the row says to whom, or else the message.

    Raises:
        InvalidEmailError: names the field that is wrong; or nobody is to get it.
    """
    fields, extras = raw_address_fields(head), email.extras
    for name in ('from_address', 'sender_address', 'reply_to', 'one_copy_each'):
        if getattr(extras, name):
            raise InvalidEmailError(f'{name}: cannot be given with raw, which has its own header')
    given = read_address_fields(email._replace(recipient=email.recipient.strip() or SOMEBODY))
    fields = fields._replace(return_path=given.return_path)
    if email.recipient.strip():
        return fields._replace(to=given.to, cc=given.cc, bcc=given.bcc)
    fields.check_count()
    if not (fields.to or fields.cc or fields.bcc):
        raise InvalidEmailError('raw: nobody is to get it: no recipient, and no To, Cc or Bcc')
    return fields


def _as_it_travels(data: bytes, head: RawHead) -> tuple[bytes, bytes]:
    """Return header, with the empty line, and body."""
    chunks, dots = [], 0
    for chunk in _chunks(data, head.body_at):
        text = chunk.replace(b'\r\n', b'\n')
        if b'\r' in text or b'\0' in text:
            raise InvalidEmailError(NO_LINE_END)
        dots += text.count(b'\n.')
        chunks.append(text.replace(b'\n', b'\r\n'))
    if dots > MAX_LEADING_DOTS:
        raise InvalidEmailError(
            f'raw: more than {MAX_LEADING_DOTS} lines begin with a dot: encode it'
        )
    shown = b'\n'.join(line for name, line in head.lines if name not in HIDDEN)
    if b'\r' in shown or b'\0' in shown:
        raise InvalidEmailError(NO_LINE_END)
    lines, body = shown.replace(b'\n', b'\r\n') + b'\r\n\r\n', b''.join(chunks)
    if _has_long_line(lines) or _has_long_line(body):
        raise InvalidEmailError(
            f'raw: has a line of more than {MAX_LINE_CHARS} bytes (RFC 5322, 2.1.1): encode it'
        )
    return lines, body


def _chunks(data: bytes, start: int) -> Iterator[bytes]:
    """Yield the rest in pieces that no CRLF is divided between, see mail_outbox.mime.CHUNK."""
    while start < len(data):
        end = start + CHUNK
        if data[end - 1 : end + 1] == b'\r\n':
            end += 1
        yield data[start:end]
        start = end


def _has_long_line(content: bytes) -> bool:
    """Return whether a line is too long; looks at few of the line ends only."""
    start = 0
    while len(content) - start > MAX_LINE_CHARS:
        end = content.rfind(b'\r\n', start, start + MAX_LINE_CHARS + 2)
        if end < 0:
            return True
        start = end + 2
    return False
