"""How the inbox misbehaves: the table of recipient tags, and the rules set by command.

A tag is a part of the recipient's local part after a `+`: `anna+4xx-twice@example.com`. The table
`TAGS` is below; `dev.inbox` explains it. A rule applies to the next so many occasions of one SMTP
verb at one relay or both. Rules go before tags. Counts live in memory: an inbox that is started
again begins anew.
"""

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Verb = Literal['connect', 'ehlo', 'starttls', 'auth', 'mail', 'rcpt', 'data', 'dot', 'rset', 'quit']
Deed = Literal['refuse', 'drop', 'stall', 'store-then-drop']
VERBS: tuple[str, ...] = get_args(Verb)
DEEDS: tuple[str, ...] = get_args(Deed)
RELAYS = ('primary', 'backup')


@dataclass(frozen=True)
class Fault:
    """One misdeed.

    Attributes:
        code, text: The reply of `refuse`; a 421 also closes the connection.
        seconds: How long `stall` lasts before the verb goes its normal way; None until the client
            goes.
        beyond: Only what is more than so many in a second; None for all. 14 with code 454 is Amazon
            SES.
    """

    do: Deed
    code: int = 451
    text: str = '4.7.1 The inbox was told to refuse this'
    seconds: float | None = None
    beyond: int | None = None


@dataclass(frozen=True)
class Tag:
    """What a recipient tag brings about, and how often.

    Attributes:
        verb: `rcpt`, `data` (before 354) or `dot` (after the message).
        times: So often per recipient; None for always.
        each_relay: Whether every relay counts for itself.
    """

    verb: Verb
    fault: Fault
    times: int | None = None
    each_relay: bool = False


TAGS: dict[str, Tag] = {
    '4xx-twice': Tag(
        'rcpt', Fault('refuse', 451, '4.7.1 Greylisted, come again'), times=2, each_relay=True
    ),
    '5xx-rcpt': Tag('rcpt', Fault('refuse', 550, '5.1.1 No such mailbox')),
    '5xx-data': Tag('dot', Fault('refuse', 554, '5.7.1 Message refused by policy')),
    '4xx-data': Tag('dot', Fault('refuse', 452, '4.3.1 Insufficient system storage')),
    'drop-rcpt': Tag('rcpt', Fault('drop')),
    'drop-data': Tag('data', Fault('drop')),
    'drop-dot': Tag('dot', Fault('store-then-drop'), times=1),
    'drop-dot-lost': Tag('dot', Fault('drop'), times=1),
    'stall-rcpt': Tag('rcpt', Fault('stall')),
    'stall-dot': Tag('dot', Fault('stall')),
    '421-rcpt': Tag('rcpt', Fault('refuse', 421, '4.3.2 Closing transmission channel')),
}


class TagCounter:
    """Looks recipients up in `TAGS` and counts down those that wear off."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, str, str]] = Counter()

    def take(self, relay: str, recipient: str, verb: Verb) -> Fault | None:
        """Give the fault this recipient asks for at this verb, and count it.

        None when there is none (any more).
        """
        local_part = recipient.rpartition('@')[0]
        for word in local_part.lower().split('+')[1:]:
            tag = TAGS.get(word)
            if tag is None or tag.verb != verb:
                continue
            key = (word, recipient.lower(), relay if tag.each_relay else '')
            if tag.times is None or self._taken[key] < tag.times:
                self._taken[key] += 1
                return tag.fault
        return None


@dataclass(frozen=True)
class Rule:
    """A fault set by command.

    Where (None: both relays), at which verb, how many times more (None: for ever).
    """

    relay: str | None
    verb: str
    fault: Fault
    times: int | None = None


class BadRule(ValueError):  # noqa: N818 - reads as what happened
    """The command does not describe a rule; the message says what is wrong with it."""


def parse_rule(command: dict[str, Any]) -> Rule:
    """Read a rule out of a `set` command.

    Args:
        command: relay, verb, do, code, text, seconds, beyond, times; see `dev.inbox_control`.
    Raises:
        BadRule: an unknown name or a value out of range.
    """
    unknown = set(command) - {'relay', 'verb', 'do', 'code', 'text', 'seconds', 'beyond', 'times'}
    relay, verb, deed, times = (command.get(key) for key in ('relay', 'verb', 'do', 'times'))
    code, seconds, beyond = (
        command.get('code', Fault.code),
        command.get('seconds'),
        command.get('beyond'),
    )
    problems = [
        (bool(unknown), f'unknown: {", ".join(sorted(unknown))}'),
        (relay is not None and relay not in RELAYS, f'relay must be null or one of {RELAYS}'),
        (verb not in VERBS, f'verb must be one of {VERBS}'),
        (deed not in DEEDS, f'do must be one of {DEEDS}'),
        (deed == 'store-then-drop' and verb != 'dot', 'store-then-drop works at the verb dot only'),
        (not _is_number(code, 400, 599), 'code must be between 400 and 599'),
        (times is not None and not _is_number(times, 1), 'times must be null or at least 1'),
        (beyond is not None and not _is_number(beyond, 0), 'beyond must be null or at least 0'),
        (
            seconds is not None and not isinstance(seconds, int | float),
            'seconds must be null or a number',
        ),
    ]
    for is_wrong, explanation in problems:
        if is_wrong:
            raise BadRule(explanation)
    text = str(command.get('text') or f'{int(code) // 100}.7.1 The inbox was told to refuse this')
    return Rule(relay, str(verb), Fault(deed, int(code), text, seconds, beyond), times)  # type: ignore[arg-type]


def _is_number(value: object, low: int, high: int | None = None) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and low <= value
        and (high is None or value <= high)
    )


class Rules:
    """The rules in force; at most one for each pair of relay and verb."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._passed: Counter[tuple[str, str, int]] = Counter()  # by relay, verb and second

    def set(self, rule: Rule) -> None:
        """Put a rule in force, in place of one for the same relay and verb."""
        self._rules = [
            old for old in self._rules if (old.relay, old.verb) != (rule.relay, rule.verb)
        ]
        self._rules.append(rule)

    def clear(self) -> None:
        """Behave again."""
        self._rules = []

    def take(self, relay: str, verb: Verb) -> Fault | None:
        """Give the fault in force for this verb, and count it down."""
        for index, rule in enumerate(self._rules):
            if rule.verb == verb and rule.relay in (None, relay):
                if self._passes(relay, rule):
                    return None
                if rule.times == 1:
                    del self._rules[index]
                elif rule.times is not None:
                    self._rules[index] = replace(rule, times=rule.times - 1)
                return rule.fault
        return None

    def _passes(self, relay: str, rule: Rule) -> bool:
        if rule.fault.beyond is None:
            return False
        now = (relay, rule.verb, int(time.monotonic()))
        self._passed[now] += 1
        return self._passed[now] <= rule.fault.beyond
