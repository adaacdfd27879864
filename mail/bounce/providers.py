"""What providers call us with: the events of each, read into reports. Nothing here is verified.

Sources: docs.aws.amazon.com/ses (notification contents), postmarkapp.com/developer (bounce and spam
complaint webhooks), documentation.mailgun.com (webhooks), docs.sendgrid.com (event webhook),
developers.brevo.com (transactional webhooks).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mail.bounce.codes import code_in, says_dead_address
from mail.bounce.mime import EARLIEST, LATEST
from mail.bounce.report import FeedbackKind, Report, key_of, name_of, single_line
from mail.bounce.return_path import ReturnPaths

MOST_EVENTS = 1000  # in one call

BOUNCE, SOFT, DELAY, COMPLAINT = (
    FeedbackKind.BOUNCE, FeedbackKind.SOFT_BOUNCE, FeedbackKind.DELAY, FeedbackKind.COMPLAINT,
)  # fmt: skip
POSTMARK_TYPES = {
    'HardBounce': BOUNCE, 'BadEmailAddress': BOUNCE, 'SoftBounce': SOFT, 'Blocked': SOFT,
    'DnsError': SOFT, 'SpamNotification': SOFT, 'DMARCPolicy': SOFT, 'Transient': DELAY,
    'SpamComplaint': COMPLAINT,
}  # fmt: skip
SENDGRID_EVENTS = {'deferred': DELAY, 'spamreport': COMPLAINT}
BREVO_EVENTS = {
    'hard_bounce': BOUNCE, 'invalid_email': BOUNCE, 'soft_bounce': SOFT, 'blocked': SOFT,
    'error': SOFT, 'deferred': DELAY, 'spam': COMPLAINT, 'complaint': COMPLAINT,
}  # fmt: skip


def read_ses(event: Any, paths: ReturnPaths | None) -> list[Report]:
    """Read a notification of Amazon SES, or an event of a configuration set."""
    event = _object(event)
    mail = _object(event.get('mail'))
    kind = str(event.get('notificationType') or event.get('eventType'))
    told = _object(event.get({'Bounce': 'bounce', 'Complaint': 'complaint'}.get(kind, '')))
    if kind == 'DeliveryDelay':
        told, becomes, listed = _object(event.get('deliveryDelay')), DELAY, 'delayedRecipients'
    elif kind == 'Bounce':
        becomes = BOUNCE if told.get('bounceType') == 'Permanent' else SOFT
        listed = 'bouncedRecipients'
    elif kind == 'Complaint':
        becomes, listed = COMPLAINT, 'complainedRecipients'
    else:
        return []
    words = single_line(f'{told.get("bounceType", "")} {told.get("bounceSubType", "")}'.strip())
    headers = _object(mail.get('commonHeaders'))
    return [
        _report(
            'ses',
            becomes,
            _object(entry).get('emailAddress'),
            _object(entry).get('diagnosticCode') or words or told.get('complaintFeedbackType'),
            told.get('feedbackId') or told.get('timestamp'),
            paths,
            code=_object(entry).get('status'),
            return_path=mail.get('source'),
            message_id=headers.get('messageId'),
            relay_id=mail.get('messageId'),
            sent_at=_time(mail.get('timestamp')),
            reported_at=_time(told.get('timestamp')),
        )
        for entry in _list(told.get(listed))
    ]


def read_postmark(event: Any, paths: ReturnPaths | None) -> list[Report]:
    """Read a bounce or a complaint of Postmark."""
    event = _object(event)
    kind = POSTMARK_TYPES.get(str(event.get('Type')))
    if event.get('RecordType') == 'SpamComplaint':
        kind = COMPLAINT
    if kind is None or event.get('RecordType') not in ('Bounce', 'SpamComplaint'):
        return []
    said = event.get('Details') or event.get('Description')
    return [
        _report(
            'postmark', kind, event.get('Email'), said, event.get('ID'), paths,
            relay_id=event.get('MessageID'), sent_at=_time(event.get('BouncedAt')),
            reported_at=_time(event.get('BouncedAt')),
        )
    ]  # fmt: skip


def read_mailgun(event: Any, paths: ReturnPaths | None) -> list[Report]:
    """Read the event-data of Mailgun."""
    event = _object(event)
    status, message = _object(event.get('delivery-status')), _object(event.get('message'))
    said = status.get('message') or status.get('description')
    match event.get('event'):
        case 'complained':
            kind = COMPLAINT
        case 'failed' if event.get('severity') == 'permanent':
            code = status.get('enhanced-code') or code_in(single_line(said or ''))
            # 605 and 606: Mailgun's own list of those who bounced, or complained.
            kind = BOUNCE if says_dead_address(_code(code), single_line(said or '')) else SOFT
            kind = BOUNCE if status.get('code') in (605, 550) and code is None else kind
        case 'failed':
            kind = DELAY
        case _:
            return []
    at = _time(event.get('timestamp'))
    return [
        _report(
            'mailgun', kind, event.get('recipient'), said, event.get('id'), paths,
            code=status.get('enhanced-code'),
            return_path=_object(event.get('envelope')).get('sender'),
            message_id=_object(message.get('headers')).get('message-id'),
            sent_at=at, reported_at=at,
        )
    ]  # fmt: skip


def read_sendgrid(events: Any, paths: ReturnPaths | None) -> list[Report]:
    """Read the events of SendGrid."""
    found = []
    for given in _list(events):
        event = _object(given)
        kind = SENDGRID_EVENTS.get(str(event.get('event')))
        said = event.get('reason') or event.get('response')
        if event.get('event') == 'bounce':
            is_dead = says_dead_address(_code(event.get('status')), single_line(said or ''))
            kind = BOUNCE if is_dead and event.get('type') != 'blocked' else SOFT
        if kind is None:
            continue
        at = _time(event.get('timestamp'))
        found.append(
            _report(
                'sendgrid', kind, event.get('email'), said, event.get('sg_event_id'), paths,
                code=event.get('status'), message_id=event.get('smtp-id'), sent_at=at,
                reported_at=at,
            )
        )  # fmt: skip
    return found


def read_brevo(event: Any, paths: ReturnPaths | None) -> list[Report]:
    """Read an event of Brevo."""
    event = _object(event)
    kind = BREVO_EVENTS.get(str(event.get('event')))
    if kind is None:
        return []
    at = _time(event.get('ts_event') or event.get('ts'))
    number = f'{event.get("id")} {event.get("message-id")} {event.get("ts_event")}'
    return [
        _report(
            'brevo', kind, event.get('email'), event.get('reason'), number, paths,
            message_id=event.get('message-id'), sent_at=at, reported_at=at,
        )
    ]  # fmt: skip


def _report(
    source: str,
    kind: FeedbackKind,
    recipient: Any,
    said: Any,
    number: Any,
    paths: ReturnPaths | None,
    *,
    code: Any = None,
    return_path: Any = None,
    message_id: Any = None,
    relay_id: Any = None,
    sent_at: datetime | None = None,
    reported_at: datetime | None = None,
) -> Report:
    """Return a report of a provider that has proved who it is."""
    diagnostic = single_line(said) if said else None
    email_id = None
    if paths is not None and paths.signs and isinstance(return_path, str):
        email_id = paths.first_email_id([return_path])
    address = name_of(recipient) if isinstance(recipient, str) else None
    return Report(
        kind=kind,
        source=source,
        key=key_of(source, number, address, kind, '' if number else said),
        recipient=address,
        enhanced_code=_code(code) or code_in(diagnostic or ''),
        diagnostic=diagnostic,
        is_trusted=True,
        email_id=email_id,
        message_id=_in_angles(message_id),
        relay_id=name_of(relay_id) if isinstance(relay_id, str) else None,
        sent_at=sent_at,
        reported_at=reported_at,
    )


def _in_angles(message_id: Any) -> str | None:
    name = name_of(message_id) if isinstance(message_id, str) else None
    return name if name is None or name.startswith('<') else f'<{name}>'


def _code(text: Any) -> str | None:
    return code_in(text[:100]) if isinstance(text, str) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Iterable[Any]:
    return value[:MOST_EVENTS] if isinstance(value, list) else ()


def _time(value: Any) -> datetime | None:
    """Read ISO 8601, or seconds since 1970; None for what is neither, or cannot be a time."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC) if EARLIEST <= moment <= LATEST else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None
