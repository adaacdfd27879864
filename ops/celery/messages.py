"""Messages as Celery left them in Redis: kombu's JSON envelope, task protocols 1 and 2.

Nothing is ever unpickled. Of a body in another form than JSON only the headers are read, which show
the arguments as text; what that text does not say for certain is not known.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

import contextlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from ops.celery.bodies import UnreadableError, read_body

JSON_TYPES = ('application/json', 'text/json', 'json')
MAX_REPR_CHARS = 4096  # Celery cuts at 1024
EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

# The first argument, when what follows it shows that it is whole: (123,) or ['123', ...], never
# (12...
FIRST_ARGUMENT = re.compile(r"""\s*[(\[]\s*(['"]?)([0-9]{1,19})\1\s*[,)\]]""")
ID_NAMES = ('email_id', 'outbound_email_id', 'mail_id', 'id', 'pk')
# Those that may as well stand in something nested count only where they come first.
NAMED_ARGUMENT = re.compile(
    r"""(?:[{,]\s*(?:u?'email_id'|"email_id")|^\s*\{\s*'(?:outbound_email_id|mail_id|id|pk)')"""
    r"""\s*:\s*(['"]?)([0-9]{1,19})\1\s*[,}]"""
)
HEADERS = re.compile(rb'(?<!\\)"headers"\s*:\s*(?=\{)')


class Meaning(StrEnum):
    """What a task means here."""

    SEND = 'send_email'
    RETRY = 'retry_failed_email'
    DUTY = 'duty'  # one of beat's: our own cron runs it
    OTHER = 'other'  # about something else, an operator says: left to whoever works on it


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
    """One message. When problem is set, only task, meaning and email_id may be known besides."""

    task: str | None = None
    meaning: Meaning | None = None  # None: a task nobody here knows
    email_id: int | None = None
    not_before: datetime | None = None  # Celery's eta
    expires: datetime | None = None  # Celery gives the task up then
    # The e-mail is known by the text of the headers only: the body is in another form.
    by_header: bool = False
    goes_on: bool = False  # other tasks were to follow it: a chain, a callback
    problem: str | None = None
    # Of a task nobody here knows: what would be the e-mail's id if it were about one.
    may_mean: int | None = None

    def has_lapsed(self, now: datetime) -> bool:
        """Whether Celery would drop the task instead of running it."""
        return self.expires is not None and self.expires <= now


def read_message(
    data: bytes, tasks: Mapping[str, Meaning], *, unacked: bool = False, whole: bool = True
) -> Message:
    """Read one message; whatever the bytes are, no exception leaves.

    Args:
        tasks: Meanings of tasks by their full names, before TASKS.
        unacked: It stands in kombu's hash of messages that a worker had taken: [message, exchange,
            routing key].
        whole: False when these are only the last bytes of a message that is too large to be read.
    """
    try:
        if not whole:
            return _from_end(data, tasks)
        envelope = _json(data)
        if unacked:
            envelope = envelope[0] if isinstance(envelope, list) and envelope else None
        return _from_envelope(envelope, tasks)
    except UnreadableError as error:
        return Message(problem=str(error))


def is_envelope(data: bytes) -> bool:
    """Whether these bytes are a message of kombu's, or its last few thousand."""
    return b'"delivery_tag"' in data and b'"properties"' in data


def meaning_of(name: str, tasks: Mapping[str, Meaning]) -> Meaning | None:
    """Return what a task means, by its full name or by the last part of it."""
    return tasks.get(name) or TASKS.get(name.rpartition('.')[2].removesuffix('_task'))


def _from_end(data: bytes, tasks: Mapping[str, Meaning]) -> Message:
    """Read the headers of a message that is too large: kombu writes the body before them."""
    found = HEADERS.search(data)
    try:
        text = data[found.end() :].decode() if found else ''
        headers, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        headers = {}
    return _from_headers(headers if isinstance(headers, dict) else {}, tasks, 'it is too large')


def _from_envelope(envelope: Any, tasks: Mapping[str, Meaning]) -> Message:
    if not isinstance(envelope, dict):
        raise UnreadableError('not a message of kombu')
    headers = envelope.get('headers') or {}
    if not isinstance(headers, dict):
        raise UnreadableError('its headers are no object')
    name = headers.get('task')
    if isinstance(name, str) and (meaning := meaning_of(name, tasks)) in (None, Meaning.OTHER):
        return Message(_named(name), meaning) if meaning else _unknown(name, envelope, headers)
    if envelope.get('content-type') not in JSON_TYPES:
        return _from_headers(
            headers, tasks, f'its body is {_short(envelope.get("content-type"))}, not JSON'
        )
    try:
        body = _json(read_body(envelope, headers.get('compression')))
    except UnreadableError as error:
        return _from_headers(headers, tasks, str(error))
    if isinstance(name, str):  # protocol 2
        if not (isinstance(body, list) and len(body) >= 2):
            raise UnreadableError(f'the body of {_short(name)} is not [args, kwargs, embed]')
        parts = {'task': name, 'args': body[0], 'kwargs': body[1]} | {
            k: headers.get(k) for k in ('eta', 'expires')
        }
        embed = body[2] if len(body) > 2 else None
    elif isinstance(body, dict) and isinstance(body.get('task'), str):  # protocol 1
        parts = embed = body
    else:
        raise UnreadableError('it names no task')
    return _from_parts(parts, embed, tasks)


def _unknown(name: str, envelope: Mapping[str, Any], headers: Mapping[str, Any]) -> Message:
    """Read a message of a task nobody here knows: it may have any form, and none is a problem."""
    may_mean = _email_id_shown(headers.get('argsrepr'), headers.get('kwargsrepr'))
    if may_mean is None and envelope.get('content-type') in JSON_TYPES:
        with contextlib.suppress(UnreadableError):
            body = _json(read_body(envelope, headers.get('compression')))
            may_mean = _email_id(*body[:2]) if isinstance(body, list) and len(body) >= 2 else None
    return Message(_named(name), not_before=_time(headers.get('eta')), may_mean=may_mean)


def _from_parts(parts: Mapping[str, Any], embed: Any, tasks: Mapping[str, Meaning]) -> Message:
    name = parts['task']
    meaning = meaning_of(name, tasks)
    if meaning in (Meaning.DUTY, Meaning.OTHER):
        return Message(_named(name), meaning)
    try:
        email_id = _email_id(parts.get('args'), parts.get('kwargs'))
    except UnreadableError as error:
        return Message(_named(name), meaning, problem=str(error) if meaning else None)
    if meaning is None:
        return Message(_named(name), not_before=_time(parts.get('eta')), may_mean=email_id)
    return Message(
        task=_named(name),
        meaning=meaning,
        email_id=email_id,
        not_before=_time(parts.get('eta')),
        expires=_time(parts.get('expires')),
        goes_on=isinstance(embed, dict)
        and any(embed.get(key) for key in ('callbacks', 'chain', 'chord')),
    )


def _from_headers(
    headers: Mapping[str, Any], tasks: Mapping[str, Meaning], problem: str
) -> Message:
    """Return what the headers alone say. A message is usable when they leave no doubt."""
    name = headers.get('task')
    if not isinstance(name, str):
        raise UnreadableError(problem)
    meaning = meaning_of(name, tasks)
    if meaning is None:
        return _unknown(name, {}, headers)
    if meaning in (Meaning.DUTY, Meaning.OTHER):
        return Message(_named(name), meaning)
    email_id = _email_id_shown(headers.get('argsrepr'), headers.get('kwargsrepr'))
    if email_id is None:
        shown = f'{_short(headers.get("argsrepr"))} {_short(headers.get("kwargsrepr"))}'
        return Message(_named(name), meaning, problem=f'{problem}; its headers show {shown}')
    eta, expires = _time(headers.get('eta')), _time(headers.get('expires'))
    return Message(_named(name), meaning, email_id, eta, expires, by_header=True)


def _named(name: str) -> str:
    return name.encode(errors='backslashreplace').decode()[:200]


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f'not JSON: {error}'[:200]) from error


def _email_id(args: Any, kwargs: Any) -> int:
    """Return the e-mail a task is about: its first argument, or email_id or the like by name."""
    named = kwargs if isinstance(kwargs, dict) else {}
    values = [
        *(args[:1] if isinstance(args, list) else ()),
        *(named[name] for name in ID_NAMES if name in named),
    ]
    for value in values:
        if (email_id := _as_id(value)) is not None:
            return email_id
    raise UnreadableError(f'it names no e-mail: {_short(next(iter(values), None))}')


def _as_id(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 < value < 2**63 else None


def _email_id_shown(args: Any, kwargs: Any) -> int | None:
    """Return the e-mail that the text of the arguments names for certain."""
    if not (isinstance(args, str) and isinstance(kwargs, str | None)):
        return None
    if args.strip() in ('()', '[]'):
        found = NAMED_ARGUMENT.search((kwargs or '')[:MAX_REPR_CHARS])
    else:
        found = FIRST_ARGUMENT.match(args[:MAX_REPR_CHARS])
    return _as_id(found[2]) if found else None


def _time(value: Any) -> datetime | None:
    """Read an eta; without a zone it is UTC, Celery's default. What is no time is no eta.

    A number is how old kombus wrote expires: seconds since 1970.
    """
    if type(value) in (int, float):
        return _since_1970(value)
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:  # at the very ends of the calendar, in another zone
        return LATEST if time.year > 5000 else EARLIEST
    except (TypeError, ValueError):
        return None


def _since_1970(seconds: float) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None


_SHORT = reprlib.Repr()  # of what may be deep or huge
_SHORT.maxstring = _SHORT.maxother = 80


def _short(value: Any) -> str:
    return _SHORT.repr(value)[:80]
