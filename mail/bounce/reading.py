"""Read a message that came back: a DSN, a complaint, or what older servers write instead."""

import re
from collections.abc import Sequence
from email.message import Message

from mail.bounce import arf, dsn, heuristic
from mail.bounce.mime import (
    UnreadableReportError,
    date_of,
    decoded_text,
    field_of,
    fields_of,
    inner,
    parse,
    parts_of,
)
from mail.bounce.origin import ReportOrigin
from mail.bounce.report import ReportReading, key_of, name_of
from mail.bounce.return_path import ReturnPaths

# Where the servers that delivered a report note whom it was for, and what returned mail says.
DELIVERY_FIELDS = (
    'Delivered-To', 'X-Original-To', 'Envelope-To', 'X-Envelope-To', 'To', 'X-Failed-Recipients',
)  # fmt: skip
RETURNED_FIELDS = ('Return-Path', 'X-Envelope-From', 'Sender')
MESSAGE_ID = re.compile(r'<[^<>\s]{1,300}@[^<>\s]{1,300}>')
QUOTED_FIELD = re.compile(
    r'^[>| \t]{0,8}(Message-ID|Date|Return-Path):[ \t]{0,4}(\S[^\n]{2,600})$',
    re.IGNORECASE | re.MULTILINE,
)
MOST_QUOTED = 20


def read_returned_message(
    data: bytes, addressed_to: Sequence[str] = (), return_paths: ReturnPaths | None = None
) -> ReportReading:
    """Read what a message reports.

    It takes milliseconds, and a quarter of a second for what is made to take long: away from the
    event loop, please.

    Args:
        addressed_to: Its envelope's recipients, where they are known.
    """
    try:
        message = parse(data)
        origin = _origin(message, addressed_to, return_paths, data)
        for read in (arf.read_complaint, dsn.read_dsn, heuristic.read_other_form):
            reading = read(message, origin)
            if reading is not None:
                return reading
    except UnreadableReportError as error:
        return ReportReading((), str(error))
    except (ValueError, LookupError, RecursionError, TypeError, AttributeError, KeyError) as error:
        # The standard library's reader, at what nobody has sent before.
        return ReportReading((), f'it cannot be read: {type(error).__name__}')
    return ReportReading((), 'it reports no failure')


def _origin(
    message: Message,
    addressed_to: Sequence[str],
    return_paths: ReturnPaths | None,
    data: bytes,
) -> ReportOrigin:
    returned = _returned(message)
    email_id = None
    if return_paths is not None and return_paths.signs:
        texts = [*addressed_to, *fields_of(message, *DELIVERY_FIELDS)]
        if returned is not None:
            texts += fields_of(returned, *RETURNED_FIELDS)
        email_id = return_paths.first_email_id(texts)
    message_id, sent_at = None, None
    if returned is not None:
        found = MESSAGE_ID.search(field_of(returned, 'Message-ID')[:1000])
        message_id = name_of(found[0]) if found else None
        sent_at = date_of(field_of(returned, 'Date'))
    own_id = field_of(message, 'Message-ID')[:1000] or key_of(data)
    return ReportOrigin(
        email_id=email_id,
        message_id=message_id,
        sent_at=sent_at,
        reported_at=date_of(field_of(message, 'Date')),
        own_id=own_id,
        return_paths=return_paths,
    )


def _returned(message: Message) -> Message | None:
    """Return the header of the e-mail that came back."""
    for part in parts_of(message)[1:]:
        match part.get_content_type():
            case 'message/rfc822' | 'message/global' | 'message/global-headers':
                if (found := inner(part)) is not None:
                    return found
            case 'text/rfc822-headers':
                return parse(decoded_text(part).encode())
    if message.is_multipart():
        return None
    # A text that quotes its header.
    fields = QUOTED_FIELD.findall(decoded_text(message))
    if not fields:
        return None
    return parse(''.join(f'{name}: {value}\n' for name, value in fields[:MOST_QUOTED]).encode())
