"""What one worker is and by which rules it works: values that do not change until it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

import asyncpg
from arq.connections import ArqRedis

from db.feedback_suppression import ONLY_STATES, FeedbackRules
from db.mongo import Mongo
from mail.bounce.mailbox_place import MailboxPlace
from mail.bounce.return_path import ReturnPaths
from mail.outcome import Policy
from mail.safety import Safety
from mail.unsubscribe import UnsubscribeLinks

EVERY_TYPE = '*'


@dataclass(frozen=True, slots=True)
class Stores:
    """The servers that a worker is connected to."""

    pool: asyncpg.Pool
    mongo: Mongo | None  # None: attachments are in PostgreSQL
    redis: ArqRedis
    cache_url: str | None  # the application's Redis, if a worker is to ask whether it answers
    connect_s: float = 0.0  # how long PostgreSQL took to answer when this worker began


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What the cleanup duties may delete, and when."""

    email_days: int
    session_days: int
    # An operator named the days: only then is mail deleted that was there before this program.
    is_set: bool = False
    session_tables: frozenset[str] = frozenset()  # of the application's
    days_by_type: tuple[tuple[str, int], ...] = ()  # instead of email_days
    drop_content: frozenset[str] = frozenset()  # types, or EVERY_TYPE: once they are sent

    def drops(self, email_type: str | None) -> bool:
        """Return whether what e-mails of this type say is deleted once they are sent."""
        return EVERY_TYPE in self.drop_content or email_type in self.drop_content


class WebhookRules(NamedTuple):
    """How a worker delivers events to other programs.

    Attributes:
        allowed: Networks beside the public ones that events may go to.
        timeout_s: One delivery, from the name's look-up to the end of the answer.
        connections: To one endpoint.
        retention_days: How long deliveries are kept.
    """

    allowed: Sequence[IPv4Network | IPv6Network] = ()
    timeout_s: float = 15.0
    connections: int = 4
    retention_days: int = 7


@dataclass(frozen=True, slots=True)
class WorkerRules:
    """A worker's identity, and what it promises."""

    worker: str
    queue_name: str  # where jobs for e-mails go
    policy: Policy
    retention: RetentionRules
    expiry_hours: float
    lease_s: float
    max_message_bytes: int
    safety: Safety = field(default_factory=Safety)
    max_bytes_in_flight: int = 64 * 1024 * 1024  # of large e-mails
    webhooks: WebhookRules = field(default_factory=WebhookRules)
    return_paths: ReturnPaths | None = None
    unsubscribe: UnsubscribeLinks | None = None
    feedback: FeedbackRules = ONLY_STATES
    mailbox: MailboxPlace | None = None  # that reports come to
