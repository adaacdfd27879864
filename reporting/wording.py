"""Values as people and programs read them, on a terminal and on a page."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from db.switches import SwitchKind
from logs import hide_addresses, visible
from mail_outbox.envelope import BY_LIFE

SWITCH_WORDS = {
    SwitchKind.QUEUE: 'queue',
    SwitchKind.RELAY: 'relay',
    SwitchKind.EMAIL_TYPE: 'e-mail type',
    SwitchKind.CRON: 'duty',
}
DOMAIN = re.compile(r'@([\w.-]+)')
DEEPEST = 20  # levels of a document: ours have six


def as_json(document: dict[str, Any], indent: int | None = 2) -> str:
    """Encode a document in ASCII.

    Times become ISO 8601, and everything else that JSON does not know its text. What a record from
    elsewhere can hold and JSON cannot is left out or shown by its number: NaN, lists without end,
    half characters. The result steers no terminal.
    """
    try:
        text = _encode(document, indent)
    except (ValueError, RecursionError):
        return _encode(_plain(document), indent)
    return _encode(_plain(document), indent) if '\\ud' in text else text


def _encode(document: Any, indent: int | None) -> str:
    text = json.dumps(document, default=_as_text, indent=indent, allow_nan=False)
    return text.replace('\x7f', '\\u007f')  # the only control character that JSON leaves as it is


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _plain(value: Any, depth: int = 0) -> Any:
    match value:
        case dict() | list() | tuple() if depth > DEEPEST:
            return None
        case dict():
            return {_plain(name): _plain(part, depth + 1) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part, depth + 1) for part in value]
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.encode('utf-8', 'backslashreplace').decode('utf-8')
        case _:
            return value


def cell(value: Any) -> str:
    """Return a value as one line of harmless text.

    Relays and senders choose what is in replies and subjects.
    """
    match value:
        case None:
            return '-'
        case datetime():
            return value.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%SZ')
        case _:
            return visible(str(value))


def length(seconds: float | None) -> str:
    """Return a length of time for people: 42 s, 5 min, 3.2 h, 4 d."""
    if seconds is None:
        return '-'
    size = abs(seconds)
    if size < 120:
        return f'{seconds:.0f} s'
    if size < 7200:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h' if size < 172_800 else f'{seconds / 86400:.0f} d'


def counted(number: int, one: str = 'e-mail', many: str | None = None) -> str:
    """Return `1 job`, `2 jobs`; many is what is said of several: `1 e-mail is`, `2 e-mails are`."""
    return f'{number} {one if number == 1 else many or f"{one}s"}'


def counted_when(outbox: Mapping[str, Any]) -> str:
    """Return how old the numbers of db.reports.read_outbox are."""
    if outbox['is_at_least']:
        return 'in part, there are more'
    return f'{length(outbox["counted_s"])} ago' if outbox['counted_s'] else 'now'


def megabytes(size_bytes: int) -> str:
    """Return a size in memory for people."""
    return f'{size_bytes / 2**20:.0f} MiB'


def fault(detail: Any) -> str:
    """Return the error of a duty that failed in one short line without addresses.

    Args:
        detail: As db.reports.read_duties returns it.
    """
    reported = detail.get('error', detail) if isinstance(detail, dict) else detail
    return (hide_addresses(str(reported or '')) or '')[:200]


def because(error: str | None) -> str:
    """Return an error as the end of a sentence, or nothing when nobody wrote one down."""
    return f': {error}' if error else ''


def percent(rate: float | None) -> str:
    """Return a share of one for people."""
    return '-' if rate is None else f'{rate:.1%}'


def reply_code(row: Mapping[str, Any]) -> str | None:
    """Return what a relay replied in digits: 550 5.1.1, or as much of it as there is."""
    return ' '.join(str(row[name]) for name in ('smtp_code', 'enhanced_code') if row[name]) or None


def tried(attempts: int, max_attempts: int) -> str:
    """Return the number of attempts for people: 3 of 5; 3 where no number ends them."""
    return f'{attempts} of {max_attempts}' if max_attempts < BY_LIFE else str(attempts)


def hide_recipient(recipient: str | None) -> str:
    """Return a recipient field without names and local parts."""
    if not recipient:  # an adopted table may have none
        return '-'
    return ', '.join(f'***@{domain}' for domain in DOMAIN.findall(recipient)) or '***'
