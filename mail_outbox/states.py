"""The states of an e-mail and the reasons why one is dead: every word, once.

They are in the lowest room because everybody above shares them: an application reads them from its
rows, `mail` decides on them, `db` writes them. What the program derives from them, the sets of
states and their SQL, is in `db/states.py`. docs/states.md has the diagram.
"""

from enum import Flag, StrEnum, auto
from typing import Self


class Trait(Flag):
    """What is true of every e-mail in a state; the sets of `db/states.py` are made of it."""

    NONE = 0
    CLAIMED = auto()  # a worker claims it once its next_retry_at has come
    OVER = auto()  # it has ended, and the retention deletes its row
    RETRYABLE = auto()  # an operator may have it sent again: `ops retry`
    CANCELLABLE = auto()  # an operator may cancel it: `ops purge outbox`, `ops held cancel`
    ACCEPTED = auto()  # a relay accepted it, whatever came of it then


class Status(StrEnum):
    """The states of an outbox row; the CHECK constraint in `db/migrations` lists the same.

    Each has a paragraph: who moves a row there, and what picks it up when nobody does anything.
    """

    traits: Trait

    def __new__(cls, word: str, traits: Trait) -> Self:
        """Make a state from its word in the database and what is true of it."""
        status = str.__new__(cls, word)
        status._value_ = word
        status.traits = traits
        return status

    # The application inserts it, an operator retries or releases it, a worker gives it back
    # untried (released). The sweep claims it when next_retry_at comes; a row without a time gets
    # one from the sweep (give_due_time). Once expires_at is over, the hourly cleanup expires it.
    PENDING = 'pending', Trait.CLAIMED | Trait.CANCELLABLE

    # A worker claims it, and its lease runs 25 s at a time. When the worker stops renewing, the
    # beat of any other rescues the row: uncertain, or failed (poison) after three lost attempts.
    SENDING = 'sending', Trait.NONE

    # A relay accepted it, or an operator said so of an uncertain one. It is over; the retention
    # deletes it.
    SENT = 'sent', Trait.OVER | Trait.ACCEPTED

    # An attempt failed. With a next_retry_at the sweep claims it again, or the cleanup expires it;
    # without one it is dead: dead_reason says why, an operator may retry it, and the retention
    # deletes it.
    FAILED = 'failed', Trait.CLAIMED | Trait.RETRYABLE | Trait.CANCELLABLE

    # The reply to the final dot never came, or the worker was lost: it may have been delivered.
    # With a next_retry_at the sweep sends it again, with the same Message-ID; without one it waits
    # for an operator, and nothing deletes it.
    UNCERTAIN = 'uncertain', Trait.CLAIMED | Trait.RETRYABLE | Trait.CANCELLABLE

    # A report says that it, or a recipient's copy of it, could not be delivered after a relay had
    # accepted it (RFC 3464). It is over; an operator may retry it, once the address is corrected.
    BOUNCED = 'bounced', Trait.OVER | Trait.RETRYABLE | Trait.ACCEPTED

    # A recipient reported it as unwanted (RFC 5965). It is over, and nobody sends it again.
    COMPLAINED = 'complained', Trait.OVER | Trait.ACCEPTED

    # The hourly cleanup, or a worker that was asked for it, found its expires_at over. It is over;
    # an operator may retry it, which gives it a new life.
    EXPIRED = 'expired', Trait.OVER | Trait.RETRYABLE

    # An operator cancelled it. It is over; an operator may retry it.
    CANCELLED = 'cancelled', Trait.OVER | Trait.RETRYABLE

    # The take-over of an adopted table, or an operator, put it aside. Nobody sends, expires or
    # deletes it until an operator releases it (pending) or cancels it.
    HELD = 'held', Trait.CANCELLABLE

    # A row of an adopted table that is shared: the system that was there before sends it. The
    # take-over makes it ours, by what that system's word means; what that system has sent stays.
    EXTERNAL = 'external', Trait.NONE


class DeadReason(StrEnum):
    """Why no further attempt follows; the CHECK constraint in `db/migrations` lists the same.

    Of e-mails that are failed or uncertain. A retry, a release and a claim remove it.
    """

    # A relay refused the e-mail for good (5xx), or all of its recipients.
    REJECTED = 'rejected'

    # The row, its template or its attachments could not be made into a message.
    RENDER = 'render'

    # Every recipient is on the suppression list, so no relay was asked.
    SUPPRESSED = 'suppressed'

    # The last of its attempts was deferred.
    EXHAUSTED = 'exhausted'

    # Three workers in a row were lost while they sent it.
    POISON = 'poison'

    # PostgreSQL, or a trigger or constraint of the application's, refuses to change its row.
    REFUSED = 'refused'

    # Its row holds a value that cannot be read or worked with.
    UNREADABLE = 'unreadable'

    # An operator gave it up: `ops resolve --as failed`.
    GIVEN_UP = 'given up'
