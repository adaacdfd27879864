"""A message that a stranger sent, taken apart in bounded time and memory.

Only its beginning is read: RFC 3462 has the report's parts come before the returned message, whose
body nobody needs. Python's reader takes a time that grows with the square of how deep parts stand
in one another, so few may.
"""

import email
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from email.policy import compat32
from email.utils import parsedate_to_datetime

MOST_BYTES = 256 * 1024
MOST_LINE_BYTES = 998  # RFC 5322, 2.1.1; some patterns take the square of a line's length
MOST_LINES = 4000
MOST_PARTS = 24
LONG_LINE = re.compile(rb'([^\n]{%d})[^\n]+' % MOST_LINE_BYTES)
NESTING = re.compile(rb'boundary|message/|multipart/', re.IGNORECASE)
# What PostgreSQL can add a day to, and Python can read.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class UnreadableReportError(ValueError):
    """A message that cannot be a report."""


def parse(data: bytes) -> Message:
    """Take a message apart.

    Raises:
        UnreadableReportError: it has more parts than any report, or no form.
    """
    beginning = data[:MOST_BYTES].replace(b'\r\n', b'\n').replace(b'\0', b'')
    # Each line is tried with some fifty patterns.
    beginning = b'\n'.join(LONG_LINE.sub(rb'\1', beginning).split(b'\n', MOST_LINES)[:MOST_LINES])
    if len(NESTING.findall(beginning)) > MOST_PARTS:
        raise UnreadableReportError('it has more parts than any report')
    try:
        return email.message_from_bytes(beginning, policy=compat32)
    except (ValueError, LookupError, RecursionError, TypeError, AttributeError) as error:
        raise UnreadableReportError(f'it cannot be read: {error}') from error


def field_of(message: Message, name: str) -> str:
    """Return a header field's text, '' where there is none."""
    value = message.get(name)
    return '' if value is None else str(value)


def fields_of(message: Message, *names: str) -> Iterator[str]:
    """Yield the texts of all fields of these names."""
    for name in names:
        for value in message.get_all(name, ()):
            yield str(value)


def parts_of(message: Message) -> list[Message]:
    """Return the message and all parts of it, the outer ones first."""
    return list(message.walk())


def inner(part: Message) -> Message | None:
    """Return the message that a part of type message/* holds."""
    payload = part.get_payload()
    if isinstance(payload, list) and payload and isinstance(payload[0], Message):
        return payload[0]
    return None


def decoded_text(part: Message) -> str:
    """Return a part's text as far as it can be read."""
    payload = part.get_payload(decode=True)
    return payload.decode('utf-8', 'replace') if isinstance(payload, bytes) else ''


def date_of(text: str) -> datetime | None:
    """Return the time of a Date field, aware; None for what is none."""
    try:
        moment = parsedate_to_datetime(text.strip()[:100])
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    return moment if EARLIEST <= moment <= LATEST else None
