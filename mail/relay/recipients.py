"""More recipients than a relay takes in one transaction (RFC 5321, 4.5.3.1.10)."""

import re
import time
from collections.abc import Mapping

from mail.outcome import Outcome, Reply
from mail.relay.learned_rate import ADDRESS, is_throttling

# What one transaction taught is asked again after this: relays are configured anew.
REMEMBER_S = 3600.0

# RFC 5321 names 452, and 552 from older relays. They say other things as well: about one mailbox
# (x.1.x, x.2.x) or about the message (x.3.4).
CODES = frozenset({452, 552})
ENHANCED_CODE = re.compile(r'[45]\.5\.3$')
CODES_OF_ONE = re.compile(r'[45]\.([12]\.\d+|3\.4)$')
WORDS_OF_ONE = re.compile(r'mailbox|\bquota|\busers?\b|message size|too large', re.IGNORECASE)
# Postfix, Sendmail, Exim, Exchange Online, Amazon SES; relays say it with 450, 451, 550 and 554
# too.
WORDS = re.compile(
    r"""too\ many\ (\w+\ )?(recipients | rcpts? | addresses | destinations)
    | (recipients? | rcpts?)\ (count | limit | number | maximum)\b
    | \b(number | count | limit | maximum | max)\ (\w+\ ){0,3}(recipients | rcpts)
    | \b(recipients | rcpts)\ (\w+\ ){0,3}(limit | exceed\w* | maximum)
    | exceed\w*\ (\w+\ ){0,4}(recipients | rcpts)
    # Gmail
    | multiple\ destination\ domains\ per\ transaction | recipient\ in\ a\ separate\ transaction""",
    re.IGNORECASE | re.VERBOSE,
)

RCPT_MAX = re.compile(r'(?:^|\s)RCPTMAX=([1-9]\d{0,5})(?=\s|$)', re.IGNORECASE)


def says_too_many(reply: Reply) -> bool:
    """Tell whether a reply says that one transaction has too many recipients.

    It says so in words or by its enhanced code.

    Too many in an hour is another matter: see mail.relay.learned_rate.is_throttling.
    """
    if (
        not 400 <= reply.code < 600
        or CODES_OF_ONE.match(reply.enhanced_code or '')
        or is_throttling(reply)
    ):
        return False
    if ENHANCED_CODE.match(reply.enhanced_code or ''):
        return True
    return WORDS.search(ADDRESS.sub('', reply.text)) is not None


def _may_say_too_many(reply: Reply) -> bool:
    """Tell whether the code may mean that; its place among the recipients' replies decides."""
    if (
        reply.code not in CODES
        or CODES_OF_ONE.match(reply.enhanced_code or '')
        or is_throttling(reply)
    ):
        return False
    return WORDS_OF_ONE.search(ADDRESS.sub('', reply.text)) is None


def left_over(answers: Mapping[str, tuple[Outcome, Reply]]) -> list[str]:
    """Return the recipients for whom a transaction had no room.

    The answers are in the order of RCPT. Only a recipient behind an accepted one counts: the first
    is refused for another reason. A bare 452 or 552 means that there is no more room only if nobody
    is accepted behind it; else it is about this recipient.
    """
    accepted = [
        place for place, (outcome, _) in enumerate(answers.values()) if outcome is Outcome.ACCEPTED
    ]
    if not accepted:
        return []
    return [
        recipient
        for place, (recipient, (outcome, reply)) in enumerate(answers.items())
        if outcome is not Outcome.ACCEPTED
        and place > accepted[0]
        and (says_too_many(reply) or (place > accepted[-1] and _may_say_too_many(reply)))
    ]


def announced_limit(extensions: Mapping[str, str]) -> int | None:
    """Return LIMITS RCPTMAX (RFC 9422) from EHLO's keywords and their parameters; None for none."""
    match = RCPT_MAX.search(extensions.get('limits', ''))
    return int(match[1]) if match else None


class RecipientLimit:
    """How many recipients a relay takes in one transaction, as far as that is known."""

    def __init__(self) -> None:
        self._most = 0
        self._until = 0.0
        self.announced: int | None = None  # by EHLO

    @property
    def most(self) -> int | None:
        """The number; None when no limit is known."""
        if time.monotonic() >= self._until:
            return self.announced
        return self._most if self.announced is None else min(self._most, self.announced)

    def learn(self, most: int) -> None:
        """Note that the relay took so many, at least 1, and no more."""
        self._most, self._until = max(1, most), time.monotonic() + REMEMBER_S
