"""Failures that servers report in no standard form: flufl.bounce knows how they write them."""

import logging
from email.message import Message
from itertools import islice
from typing import Any

from mail.bounce.codes import code_in, says_dead_address
from mail.bounce.dsn import MOST_RECIPIENTS
from mail.bounce.mime import decoded_text, field_of, fields_of, parts_of
from mail.bounce.origin import ReportOrigin
from mail.bounce.report import FeedbackKind, Report, ReportReading, key_of, name_of, single_line


def read_other_form(message: Message, origin: ReportOrigin) -> ReportReading | None:
    """Read what a server wrote in a form of its own; None for what reports no failure."""
    # RFC 3834: an answer of a person's program, from a holiday, is no failure.
    if field_of(message, 'Auto-Submitted').strip().lower().startswith('auto-replied'):
        return None
    text = next(
        (decoded_text(p) for p in parts_of(message) if p.get_content_maintype() == 'text'), ''
    )
    for_good, for_now = _failures(message)
    if not (for_good or for_now):
        return _named(message, origin, text)
    reports = [
        _report(address, origin, text, is_delayed=is_delayed)
        for addresses, is_delayed in ((for_good, False), (for_now, True))
        for address in islice(sorted(addresses), MOST_RECIPIENTS)
    ]
    return ReportReading(reports)


def _failures(message: Message) -> tuple[set[str], set[str]]:
    """Return who gets it never, and who later."""
    from flufl.bounce import all_failures  # noqa: PLC0415 - few processes read reports

    # It writes a line for each form that it tries, and an error where a form is broken.
    logging.getLogger('flufl.bounce').setLevel(logging.CRITICAL + 1)
    if message.get('From') is None:  # one of its forms looks at nothing else
        message['From'] = 'nobody@invalid'
    for_now, for_good = all_failures(message)
    return _addresses(for_good), _addresses(for_now) - _addresses(for_good)


def _addresses(found: Any) -> set[str]:
    texts = (part.decode(errors='replace') if isinstance(part, bytes) else part for part in found)
    return {name for text in texts if (name := name_of(text)) is not None and '@' in name}


def _named(message: Message, origin: ReportOrigin, text: str) -> ReportReading | None:
    """Read Exim's own field, which it has beside its text."""
    named = [
        address
        for field in fields_of(message, 'X-Failed-Recipients')
        for part in field.split(',')[:MOST_RECIPIENTS]
        if (address := name_of(part)) is not None and '@' in address
    ]
    if not named:
        return None
    return ReportReading([_report(address, origin, text, is_delayed=False) for address in named])


def _report(address: str, origin: ReportOrigin, text: str, *, is_delayed: bool) -> Report:
    said = single_line(text[:4000])
    code = code_in(text[:20_000])
    kind = FeedbackKind.BOUNCE if says_dead_address(code, text) else FeedbackKind.SOFT_BOUNCE
    if is_delayed:
        kind = FeedbackKind.DELAY
    return Report(
        kind=kind,
        source='dsn',
        key=key_of('dsn', origin.own_id, origin.email_id, origin.message_id, address, kind),
        recipient=address,
        enhanced_code=code,
        diagnostic=said or None,
        email_id=origin.email_id,
        message_id=origin.message_id,
        sent_at=origin.sent_at,
        reported_at=origin.reported_at,
    )
