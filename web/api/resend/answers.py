"""E-mails as Resend's clients read them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from mail_outbox.address_list import read_address_list
from mail_outbox.field_checks import PRIORITIES
from mail_outbox.states import DeadReason, Status

Row = Mapping[str, Any]
PRIORITY_WORDS = {number: word for word, number in PRIORITIES.items()}
LONGEST_LIST_CHARS = 4096  # a longer one is shown as it is: splitting it takes its time

# What becomes of an e-mail has other names there; docs/api-sending.md has the table.
LAST_EVENTS: Mapping[str, str] = {
    Status.PENDING: 'queued',
    Status.SENDING: 'queued',
    Status.SENT: 'sent',
    Status.FAILED: 'failed',
    Status.UNCERTAIN: 'failed',
    Status.BOUNCED: 'bounced',
    Status.COMPLAINED: 'complained',
    Status.EXPIRED: 'failed',
    Status.CANCELLED: 'canceled',
    Status.HELD: 'queued',
    Status.EXTERNAL: 'queued',
}
OF_DEAD: Mapping[str | None, str] = {
    DeadReason.REJECTED: 'bounced',
    DeadReason.SUPPRESSED: 'suppressed',
}


def last_event(row: Row) -> str:
    """Return which of Resend's events an e-mail has come to."""
    if row['is_scheduled']:
        return 'scheduled'
    if row['status'] in (Status.FAILED, Status.UNCERTAIN):
        if row['next_retry_at'] is not None:
            return 'delivery_delayed'
        return OF_DEAD.get(row['dead_reason'], 'failed')
    return LAST_EVENTS.get(row['status'], 'queued')


def email_document(row: Row, default_from: str, *, with_content: bool) -> dict[str, Any]:
    """Return one e-mail, with what is ours beside Resend's fields.

    Args:
        row: Of db.queued_emails.read_queued, or of list_queued, which has no bodies.
        default_from: The From of e-mails that name none.
        with_content: Also what it says: codes in subjects and links in bodies are secrets.
    """
    document = {
        'object': 'email',
        'id': str(row['id']),
        'message_id': _in_angles(row['message_id']),
        'from': row['from_address'] or default_from,
        'to': _addresses(row['recipient']),
        'cc': _addresses(row['cc']),
        'bcc': _addresses(row['bcc']),
        'reply_to': _addresses(row['reply_to']),
        'subject': row['subject'] if with_content else None,
        'created_at': _moment(row['created_at']),
        'scheduled_at': _moment(row['next_retry_at']) if row['is_scheduled'] else None,
        'last_event': last_event(row),
        'tags': [{'name': name, 'value': value} for name, value in _pairs(row['tags'])],
        # Ours.
        'status': row['status'],
        'priority': PRIORITY_WORDS.get(row['priority']),
        'email_type': row['email_type'],
        'organization_id': row['organization_id'],
        'expires_at': _moment(row['expires_at']),
        'sent_at': _moment(row['sent_at']),
    }
    for name, column in (('html', 'body_html'), ('text', 'body_text')):
        if column in row:
            document[name] = row[column] if with_content else None
    return document


def _in_angles(message_id: str | None) -> str | None:
    return message_id if message_id is None or message_id.startswith('<') else f'<{message_id}>'


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _pairs(tags: Any) -> list[tuple[str, str]]:
    """Return tags as names and texts; a row that no client wrote may have any JSON there."""
    found = tags.items() if isinstance(tags, dict) else ()
    return [(name, tag if isinstance(tag, str) else json.dumps(tag)) for name, tag in found]


def _addresses(text: str | None) -> list[str] | None:
    """Return an address list as an array; one that cannot be read, as it stands."""
    if text is None:
        return None
    if len(text) > LONGEST_LIST_CHARS or not any(c in text for c in ',<>"();:'):
        return [text.strip()]
    try:
        found = list(read_address_list(text))
    except ValueError:
        return [text]
    return [f'{name} <{address}>' if name else address for name, address in found]


def sent_answer(ids: Sequence[int], suppressed: Sequence[str] = ()) -> str:
    """Return the answer to POST /emails.

    Args:
        suppressed: Its recipients who get no mail; a field of ours, where there are any.
    """
    return orjson.dumps(_sent(ids[0], suppressed)).decode()


def _sent(email_id: int, suppressed: Sequence[str]) -> dict[str, Any]:
    sent: dict[str, Any] = {'id': str(email_id)}
    return sent | {'suppressed': list(suppressed)} if suppressed else sent


def batch_answer(
    ids: Sequence[int],
    suppressed: Sequence[Sequence[str]],
    errors: Sequence[Mapping[str, Any]] | None,
) -> str:
    """Return the answer to POST /emails/batch.

    Args:
        suppressed: Of each e-mail, see sent_answer.
        errors: {'index', 'message'} of what was left out; None: nothing may be left out.
    """
    answer: dict[str, Any] = {'data': [*map(_sent, ids, suppressed)]}
    if errors is not None:
        answer['errors'] = list(errors)
    return orjson.dumps(answer).decode()
