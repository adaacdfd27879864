"""One recipient's part of a report, whoever sent it and by whichever way."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

MOST_DIAGNOSTIC_CHARS = 500
LONGEST_NAME_CHARS = 320  # of an address, an id: a longer one is nobody's
UNPRINTABLE = re.compile('[\x00-\x20\x7f-\x9f\ud800-\udfff\u2028\u2029]+')


class FeedbackKind(StrEnum):
    """What is reported; the CHECK constraint in `db/migrations` lists the same."""

    # It failed for good, and the address is why: who bounces so gets no more mail.
    BOUNCE = 'bounce'
    # It failed for good, but another e-mail may arrive: a full mailbox, a policy, days of trying.
    SOFT_BOUNCE = 'soft-bounce'
    # Whoever has it goes on trying.
    DELAY = 'delay'
    # The recipient does not want it.
    COMPLAINT = 'complaint'


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is reported of one recipient.

    Attributes:
        source: By which way it came: dsn, arf, or the provider's name.
        key: The same for the same report.
        is_trusted: Who sent it has proved to be the provider: what it says of a recipient is so.
        email_id: Of a return path that we signed.
        message_id: Of the e-mail, with its angle brackets.
        relay_id: What the provider called the e-mail when it accepted it.
        sent_at: About when, aware.
        reported_at: When it happened, aware.
    """

    kind: FeedbackKind
    source: str
    key: str
    recipient: str | None
    enhanced_code: str | None = None
    diagnostic: str | None = None
    is_trusted: bool = False
    email_id: int | None = None
    message_id: str | None = None
    relay_id: str | None = None
    sent_at: datetime | None = None
    reported_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReportReading:
    """What a message reports; why nothing, where it does not."""

    reports: Sequence[Report]
    why_none: str | None = None


def key_of(*parts: object) -> str:
    """Return a key for what these parts name."""
    return sha256('\0'.join(map(str, parts)).encode(errors='replace')).hexdigest()


def single_line(text: object, longest: int = MOST_DIAGNOSTIC_CHARS) -> str:
    """Return what a stranger wrote as one line of printable text."""
    return UNPRINTABLE.sub(' ', str(text)[: longest * 4]).strip()[:longest]


def name_of(text: object) -> str | None:
    """Return an address or an id as a stranger wrote it; None for what can be neither."""
    line = single_line(text, LONGEST_NAME_CHARS + 1)
    return line if line and len(line) <= LONGEST_NAME_CHARS else None
