"""Values as the pages show them: filters of the templates."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup, escape

from actions.decide import MailDecision
from logs import visible, visible_lines
from mail_outbox.states import Status
from reporting.wording import cell, length

LONGEST_TEXT = 500  # of what is shown in a line: names and replies come from outside
CODE = re.compile(r'`([^`]+)`')

# The colour of a state: fine, on its way, worth a look, somebody must act, over.
TONES: Mapping[str, str] = {
    Status.PENDING: 'way', Status.SENDING: 'way', Status.SENT: 'fine', Status.FAILED: 'look',
    Status.UNCERTAIN: 'look', Status.HELD: 'look', Status.EXPIRED: 'over',
    Status.BOUNCED: 'act', Status.COMPLAINED: 'act',
    Status.CANCELLED: 'over', Status.EXTERNAL: 'over', 'dead': 'act', 'retrying': 'look',
    'accepted': 'fine', 'deferred': 'look', 'rejected': 'act', 'released': 'over', 'lost': 'look',
}  # fmt: skip

# What happens, in a sentence; and the button's words.
EFFECTS: Mapping[MailDecision, tuple[str, str]] = {
    MailDecision.RETRY: ('are due at once, with an attempt more; workers begin now', 'Send again'),
    MailDecision.CANCEL: ('are never sent', 'Cancel'),
    MailDecision.HOLD: ('are kept until somebody releases them', 'Hold'),
    MailDecision.RELEASE: ('are due at once; workers begin now', 'Release'),
    MailDecision.SENT: ('count as sent: they did arrive', 'Mark as sent'),
    MailDecision.GIVE_UP: ('get no further attempt', 'Give up'),
}


def line(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Return a value as one line of harmless text."""
    text = cell(value)
    return text if len(text) <= longest else f'{text[:longest]}…'


def lines(text: str | None) -> str:
    """Return text as harmless lines."""
    return visible_lines(text or '')


def state_of(email: Mapping[str, Any]) -> str:
    """Return an e-mail's state as a person calls it: dead is failed without another attempt."""
    if email['status'] == Status.FAILED and email['is_final']:
        return 'dead'
    return str(email['status'])


def tone(word: str) -> str:
    """Return the colour of a state or an outcome."""
    return TONES.get(word, 'over')


def as_time(value: datetime | None, now: datetime | None = None) -> Markup:
    """Return a time as so long ago or ahead, with the time itself for who points at it."""
    if value is None:
        return Markup('<span class="none">-</span>')
    exact = cell(value)
    try:
        away_s = ((now or datetime.now(UTC)) - value).total_seconds()
    except (TypeError, OverflowError):
        return Markup('<time>{}</time>').format(exact)
    told = f'{length(away_s)} ago' if away_s >= 0 else f'in {length(-away_s)}'
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), exact, told)


def with_code(text: Any) -> Markup:
    """Return text in which what stands in backticks is code."""
    return Markup(CODE.sub(r'<code>\1</code>', str(escape(visible(str(text))))))  # noqa: S704 - escaped


def number(value: Any) -> str:
    """Return a number with thin spaces between thousands."""
    return f'{value:,}'.replace(',', '\u202f') if isinstance(value, int) else line(value)


def seconds(value: float) -> str:
    """Return a short time: 40 ms, 1.2 s, 3 min."""
    if value < 1:
        return f'{value * 1000:.0f} ms'
    return f'{value:.1f} s' if value < 60 else length(value)


def host(url: str) -> str:
    """Return the name of a server in an address."""
    return urlsplit(url).hostname or url


FILTERS: Mapping[str, Any] = {
    'line': line, 'lines': lines, 'state': state_of, 'tone': tone, 'moment': as_time,
    'with_code': with_code, 'seconds': seconds, 'number': number, 'length': length, 'host': host,
}  # fmt: skip
