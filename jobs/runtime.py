"""What every job works with, made once when the worker starts."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from motor.motor_asyncio import AsyncIOMotorDatabase

from db import claims
from db.claims import Claim
from fleet.leases import Leases
from mail.outcome import Policy
from mail.render import Sender
from mail.smtp import Relays


@dataclass(slots=True)
class Runtime:
    """The worker's connections, its identity and its rules. Times in seconds."""

    pool: asyncpg.Pool
    mongo: AsyncIOMotorDatabase[dict[str, Any]]
    redis: ArqRedis
    cache_url: str
    relays: Relays
    leases: Leases
    worker: str
    queue_name: str
    sender: Sender
    policy: Policy
    max_message_bytes: int
    sweep_size: int
    expiry_hours: float
    email_retention_days: int
    session_retention_days: int
    stopping: asyncio.Event  # set by the first SIGTERM: claim nothing more
    redis_away: asyncio.Event  # set while Redis does not answer
    sending: set[asyncio.Task[Any]] = field(default_factory=set)  # attempts that a sweep started
    sweep_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: Counter[str] = field(default_factory=Counter)  # totals since the start, by outcome

    async def claim(self, email_ids: Sequence[int]) -> list[Claim]:
        """Claim those of these e-mails that are due; see db.claims.claim."""
        since = time.monotonic()
        claimed = await claims.claim(self.pool, email_ids, **self._claimant())
        self.leases.hold(claimed, since)
        return claimed

    async def claim_due(self, limit: int) -> list[Claim]:
        """Claim up to limit due e-mails; see db.claims.claim_due."""
        since = time.monotonic()
        claimed = await claims.claim_due(self.pool, limit, **self._claimant())
        self.leases.hold(claimed, since)
        return claimed

    def _claimant(self) -> dict[str, Any]:
        return {
            'worker': self.worker,
            'lease_s': self.leases.lease_s,
            'message_id_domain': self.sender.address.rpartition('@')[2],
        }
