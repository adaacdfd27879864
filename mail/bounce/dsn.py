"""Delivery status notifications (RFC 3464, and RFC 6533 for addresses beyond ASCII)."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from email.message import Message
from email.parser import HeaderParser
from email.policy import compat32
from itertools import islice

from mail.bounce.codes import VAGUE_CODES, code_in, says_dead_address
from mail.bounce.mime import date_of, decoded_text, field_of, parts_of
from mail.bounce.origin import ReportOrigin
from mail.bounce.report import FeedbackKind, Report, ReportReading, key_of, name_of, single_line

STATUS_TYPES = frozenset({'message/delivery-status', 'message/global-delivery-status'})
MOST_RECIPIENTS = 200
MOST_WORDS_CHARS, SAID_CHARS = 20_000, 200
STATUS = re.compile(r'\s*([245]\.\d{1,3}\.\d{1,3})\b')
BLANK_LINE = re.compile(r'\r?\n[ \t]*\r?\n')


def read_dsn(message: Message, origin: ReportOrigin) -> ReportReading | None:
    """Read a DSN; None for what is none."""
    part = next((p for p in parts_of(message) if p.get_content_type() in STATUS_TYPES), None)
    if part is None:
        return None
    blocks = list(islice(_blocks(part), MOST_RECIPIENTS + 1))
    arrived_at = date_of(field_of(blocks[0], 'Arrival-Date')) if blocks else None
    told = [block for block in blocks if field_of(block, 'Action') or field_of(block, 'Status')]
    words = next(
        (decoded_text(p) for p in parts_of(message) if p.get_content_maintype() == 'text'), ''
    )
    reports = [
        report
        for block in told[:MOST_RECIPIENTS]
        if (report := _report(block, origin, arrived_at, words[:MOST_WORDS_CHARS])) is not None
    ]
    return ReportReading(reports, None if reports else 'it reports a delivery, no failure')


def _blocks(part: Message) -> Iterator[Message]:
    """Yield the groups of fields: the message's own, then each recipient's."""
    payload = part.get_payload()
    if not isinstance(payload, list):
        yield from _of_text(str(payload))
        return
    for block in payload:
        if isinstance(block, Message):
            yield block
            rest = block.get_payload()
            # Only message/delivery-status is taken apart at its blank lines by the library.
            if isinstance(rest, str) and rest.strip():
                yield from _of_text(rest)


def _of_text(text: str) -> Iterable[Message]:
    reader = HeaderParser(policy=compat32)
    return (reader.parsestr(block.lstrip('\n')) for block in BLANK_LINE.split(text))


def _report(
    block: Message, origin: ReportOrigin, arrived_at: datetime | None, words: str
) -> Report | None:
    action = field_of(block, 'Action').strip().lower()[:20]
    found = STATUS.match(field_of(block, 'Status'))
    status = found[1] if found else None
    recipient = _recipient(block)
    diagnostic = single_line(_value(field_of(block, 'Diagnostic-Code')))
    if not diagnostic and recipient is not None:
        # Exim says what it found out itself to people alone, below the address; OpenSMTPD says so
        # of everything, behind it.
        said = words.partition(recipient)[2].lstrip(' \t\r\n:>')
        diagnostic = single_line(BLANK_LINE.split(said, 1)[0], SAID_CHARS)
    if status is None or status in VAGUE_CODES:
        status = code_in(diagnostic) or status
    kind = _kind(action, status, diagnostic)
    if kind is None:
        return None
    key = key_of('dsn', origin.own_id, origin.email_id, origin.message_id, recipient, kind)
    return Report(
        kind=kind,
        source='dsn',
        key=key,
        recipient=recipient,
        enhanced_code=status,
        diagnostic=diagnostic or None,
        email_id=origin.email_id,
        message_id=origin.message_id,
        sent_at=origin.sent_at or arrived_at,
        reported_at=date_of(field_of(block, 'Last-Attempt-Date')) or origin.reported_at,
    )


def _kind(action: str, status: str | None, diagnostic: str) -> FeedbackKind | None:
    """Return what an action means (RFC 3464, 2.3.3); None for one that is no failure."""
    if action == 'delayed':
        return FeedbackKind.DELAY
    if action and action != 'failed':  # delivered, relayed, expanded
        return None
    if status is not None and status.startswith('2'):
        return None
    if status is not None and status.startswith('4'):  # tried until it expired
        return FeedbackKind.SOFT_BOUNCE if action else FeedbackKind.DELAY
    is_dead = says_dead_address(status, diagnostic)
    return FeedbackKind.BOUNCE if is_dead else FeedbackKind.SOFT_BOUNCE


def _recipient(block: Message) -> str | None:
    """Return whom we sent it to: before anybody forwarded it, where that is said."""
    for name in ('Original-Recipient', 'Final-Recipient'):
        address = name_of(_value(field_of(block, name)).strip().strip('<>'))
        if address is not None and '@' in address:
            return address
    return None


def _value(text: str) -> str:
    """Return what stands behind the type of a field: `rfc822; anna@example.com`."""
    kind, semicolon, value = text[:4000].partition(';')
    return value if semicolon and len(kind) < 40 else kind if not semicolon else text
