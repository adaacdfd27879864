"""What was inserted, what the relay accepted and when, and what that means for each e-mail."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dev.inbox_store import StoredMessage

ONCE = {
    'waiting', 'crashed', 'scheduled', 'eta', 'refused', 'asked again', 'live', 'forgotten', 'orm',
    'new',
}  # fmt: skip
HELD = {'old pending', 'old failed', 'old waiting'}
NEVER = {'given up', 'tomorrow', 'sent before', 'cancelled'}
EARLY_S = 0.1  # of two clocks' readings in one machine, written one after the other


@dataclass
class Entry:
    """An e-mail of the ledger. Times in seconds since 1970."""

    id: int
    recipient: str
    kind: str
    not_before: float | None
    arrivals: list[float] = field(default_factory=list)


@dataclass
class Ledger:
    """Everything the programs wrote down."""

    entries: dict[int, Entry] = field(default_factory=dict)
    in_flight: set[int] = field(default_factory=set)  # begun, and neither recorded nor failed
    errors: list[dict[str, Any]] = field(default_factory=list)
    sweeps: int = 0

    def of(self, kinds: Iterable[str]) -> list[Entry]:
        """Return the e-mails of these kinds."""
        wanted = set(kinds)
        return [entry for entry in self.entries.values() if entry.kind in wanted]


def read_ledger(path: Path) -> Ledger:
    """Read the ledger as it is now; a line that is just being written is left out."""
    ledger = Ledger()
    content = path.read_bytes() if path.exists() else b''
    for line in content[: content.rfind(b'\n') + 1].splitlines():
        note = json.loads(line)
        match note['event']:
            case 'inserted':
                ledger.entries[note['id']] = Entry(
                    note['id'], note['recipient'], note['kind'], note['not_before']
                )
            case 'began':
                ledger.in_flight.add(note['id'])
            case 'recorded':
                ledger.in_flight.discard(note['id'])
            case 'failed':
                ledger.in_flight.discard(note['id'])
                entry = ledger.entries[note['id']]
                entry.not_before = max(entry.not_before or 0, note['not_before'])
            case 'application error':
                ledger.errors.append(note)
            case 'swept':
                ledger.sweeps += 1
    return ledger


def add_arrivals(ledger: Ledger, messages: Sequence[StoredMessage]) -> None:
    """Note when the relay had accepted each e-mail."""
    by_recipient = {entry.recipient: entry for entry in ledger.entries.values()}
    for message in messages:
        for recipient in message.rcpt_to:
            if entry := by_recipient.get(recipient):
                entry.arrivals.append(datetime.fromisoformat(message.received_at).timestamp())


@dataclass(frozen=True)
class Verdict:
    """Ids of e-mails by what was wrong with them, and how many there were.

    Attributes:
        forced: Accepted twice because the old program died between the relay's answer and its
            record.
        old_sent: Due for a month, and sent though nobody released it.
        unwanted: Given up, cancelled, sent already or due tomorrow, and sent.
    """

    must: int
    sent: int
    lost: list[int]
    doubled: list[int]
    forced: list[int]
    early: list[int]
    old_sent: list[int]
    unwanted: list[int]


def judge(
    ledger: Ledger, *, released: Iterable[int] = (), may_double: Iterable[int] = ()
) -> Verdict:
    """Compare what must be sent with what was.

    Args:
        released: Old e-mails that the operator released.
        may_double: Those in flight when the old workers were killed: once more is what SMTP forces.
    """
    must = ledger.of(ONCE) + [ledger.entries[number] for number in released]
    numbers = {entry.id for entry in must}
    excused = set(may_double)
    counts = Counter({entry.id: len(entry.arrivals) for entry in ledger.entries.values()})
    twice = [n for n in numbers if counts[n] > 1]
    return Verdict(
        must=len(must),
        sent=sum(counts[n] > 0 for n in numbers),
        lost=sorted(n for n in numbers if not counts[n]),
        doubled=sorted(n for n in twice if n not in excused or counts[n] > 2),
        forced=sorted(n for n in twice if n in excused and counts[n] == 2),
        early=sorted(
            e.id
            for e in must
            if e.not_before and e.arrivals and min(e.arrivals) < e.not_before - EARLY_S
        ),
        old_sent=sorted(e.id for e in ledger.of(HELD) if e.arrivals and e.id not in numbers),
        unwanted=sorted(e.id for e in ledger.of(NEVER) if e.arrivals),
    )
