"""Messages as Celery left them in Redis: kombu's JSON envelope, task protocols 1 and 2. Pure: bytes in, values out.

Nothing is ever unpickled; a message in another form than JSON says so instead.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

JSON_TYPES = ('application/json', 'text/json', 'json')


class Meaning(StrEnum):
    """What a task means here."""

    SEND = 'send_email'
    RETRY = 'retry_failed_email'
    DUTY = 'duty'  # one of beat's: our own cron runs it


# By the last part of a task's name, without the `_task` that many put there.
TASKS: Mapping[str, Meaning] = {
    'send_email': Meaning.SEND,
    'retry_failed_email': Meaning.RETRY,
    'process_pending_emails': Meaning.DUTY,
    'check_service_health': Meaning.DUTY,
    'cleanup_expired_emails': Meaning.DUTY,
    'cleanup_old_sessions': Meaning.DUTY,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message. When problem is set, nothing else may be relied on."""

    raw: bytes  # as it stands in Redis
    task: str | None = None
    meaning: Meaning | None = None  # None: a task nobody here knows
    email_id: int | None = None
    not_before: datetime | None = None  # Celery's eta
    problem: str | None = None


class UnreadableError(Exception):
    """Not a message that can be understood."""


def read_message(raw: bytes, tasks: Mapping[str, Meaning], *, unacked: bool = False) -> Message:
    """Read one message; whatever the bytes are, no exception leaves.

    Args:
        tasks: Meanings of tasks by their full names, before TASKS.
        unacked: It stands in kombu's hash of messages that a worker had taken: [message, exchange, routing key].
    """
    try:
        envelope = _json(raw)
        if unacked:
            envelope = envelope[0] if isinstance(envelope, list) and envelope else None
        return _from_envelope(raw, envelope, tasks)
    except UnreadableError as error:
        return Message(raw, problem=str(error))


def _from_envelope(raw: bytes, envelope: Any, tasks: Mapping[str, Meaning]) -> Message:
    if not isinstance(envelope, dict):
        raise UnreadableError('not a message of kombu')
    headers = envelope.get('headers') or {}
    if not isinstance(headers, dict):
        raise UnreadableError('its headers are no object')
    name = headers.get('task')
    if headers.get('compression'):
        raise UnreadableError(f'{_told(name)} is compressed')
    if envelope.get('content-type') not in JSON_TYPES:
        raise UnreadableError(f'{_told(name)} is {_told(envelope.get("content-type"))}, not JSON')
    body = _json(_body(envelope))
    if isinstance(name, str):  # protocol 2
        if not (isinstance(body, list) and len(body) >= 2):
            raise UnreadableError(f'the body of {_told(name)} is not [args, kwargs, embed]')
        args, kwargs, eta = body[0], body[1], headers.get('eta')
    elif isinstance(body, dict) and isinstance(body.get('task'), str):  # protocol 1
        name, args, kwargs, eta = body['task'], body.get('args'), body.get('kwargs'), body.get('eta')
    else:
        raise UnreadableError('it names no task')
    meaning = meaning_of(name, tasks)
    email_id = _email_id(args, kwargs) if meaning in (Meaning.SEND, Meaning.RETRY) else None
    return Message(raw, name[:200], meaning, email_id, _time(eta))


def meaning_of(name: str, tasks: Mapping[str, Meaning]) -> Meaning | None:
    """Return what a task means, by its full name or by the last part of it."""
    return tasks.get(name) or TASKS.get(name.rpartition('.')[2].removesuffix('_task'))


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f'not JSON: {error}'[:200]) from error


def _body(envelope: dict[str, Any]) -> bytes:
    body = envelope.get('body')
    if not isinstance(body, str):
        raise UnreadableError('it has no body')
    properties = envelope.get('properties')
    encoding = properties.get('body_encoding') if isinstance(properties, dict) else None
    try:
        return base64.b64decode(body, validate=True) if encoding == 'base64' else body.encode()
    except (binascii.Error, ValueError) as error:
        raise UnreadableError(f'its body is no base64: {error}') from error


def _email_id(args: Any, kwargs: Any) -> int:
    """Return the e-mail a task is about: its first argument, or email_id by name."""
    value = args[0] if isinstance(args, list) and args else kwargs.get('email_id') if isinstance(kwargs, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 < value < 2**63:
        raise UnreadableError(f'it names no e-mail: {_told(value)}')
    return value


def _time(eta: Any) -> datetime | None:
    """Read an eta; without a zone it is UTC, as Celery's default has it. What is no time is no reason to wait."""
    try:
        time = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _told(value: Any) -> str:
    return repr(value)[:80]
