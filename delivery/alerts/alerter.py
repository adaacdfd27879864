"""Tells of subjects that go down and come back, whoever checks them."""

import asyncio
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Protocol

import asyncpg
import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.alerts import AlertState, read_alerts, write_alerts
from delivery.alerts.channels import CHANNEL_TIMEOUT_S, Channel
from delivery.alerts.verdict import Notice, after_telling, next_state

log = structlog.get_logger()

STATE_PREFIX = 'mail:alert:'
STATE_LIVES_MS = 7 * 86_400_000
STORE_TIMEOUT_S = 5.0


class AlertStates(Protocol):
    """Where the states are kept."""

    async def read(self, subjects: Collection[str]) -> Mapping[str, AlertState]:
        """Return the states of those that have one."""
        ...

    async def write(self, states: Collection[AlertState]) -> None:
        """Store states."""
        ...


class StatesInPostgres:
    """In the table mail_alerts, for all workers."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def read(self, subjects: Collection[str]) -> Mapping[str, AlertState]:
        """See AlertStates.read."""
        return await read_alerts(self._pool, subjects)

    async def write(self, states: Collection[AlertState]) -> None:
        """See AlertStates.write."""
        await write_alerts(self._pool, states)


class StatesInRedis:
    """In Redis, for what PostgreSQL cannot keep: that it is down itself.

    While Redis is away as well, each process remembers for itself; the newer state counts.
    """

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._known: dict[str, tuple[float, AlertState]] = {}  # when, in seconds since 1970

    async def read(self, subjects: Collection[str]) -> Mapping[str, AlertState]:
        """See AlertStates.read."""
        found = {}
        for subject in subjects:
            stored = self._known.get(subject)
            try:
                async with asyncio.timeout(STORE_TIMEOUT_S):
                    text = await self._redis.get(STATE_PREFIX + subject)
                shared = None if text is None else _stored_of(text)
            except (RedisError, OSError, ValueError, TypeError, KeyError):
                shared = None
            newer = max(filter(None, (stored, shared)), key=itemgetter(0), default=None)
            if newer is not None:
                found[subject] = newer[1]
        return found

    async def write(self, states: Collection[AlertState]) -> None:
        """See AlertStates.write."""
        for state in states:
            at = time.time()
            self._known[state.subject] = at, state
            document = json.dumps({'at': at, 'state': asdict(state)}, default=str)
            try:
                async with asyncio.timeout(STORE_TIMEOUT_S):
                    key = STATE_PREFIX + state.subject
                    await self._redis.psetex(key, STATE_LIVES_MS, document)
            except (RedisError, OSError):
                continue

    async def forget(self, subjects: Collection[str]) -> None:
        """Forget states, where Redis answers."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._redis.delete(*(STATE_PREFIX + subject for subject in subjects))
        except (RedisError, OSError):
            return


def _stored_of(text: bytes) -> tuple[float, AlertState]:
    document = json.loads(text)
    values: dict[str, Any] = document['state']
    for name in ('since', 'told_at'):
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    return float(document['at']), AlertState(**values)


class Alerter:
    """Tells what is new about subjects, over all channels at once."""

    def __init__(self, channels: Sequence[Channel], source: str, remind_after: timedelta) -> None:
        """Prepare.

        Args:
            source: Who tells it.
            remind_after: How long after an alert it is repeated.
        """
        self._channels = channels
        self._source = source
        self._remind_after = remind_after

    async def observe(
        self, states: AlertStates, checks: Mapping[str, str | None], *, at_once: bool = False
    ) -> list[Notice]:
        """Take in what checks found, and tell what is new. Never takes long, and never raises.

        Args:
            checks: Subject -> what is wrong with it; None: nothing is.
            at_once: One check decides.
        Returns:
            What somebody was told. What nobody could be told is tried again at the next check.
        """
        try:
            return await self._observe(states, checks, at_once=at_once)
        except Exception as error:  # noqa: BLE001 - whatever it is, the check that was made stands
            log.error('alert.failed', channel='states', error=f'{type(error).__name__}: {error}')
            return []

    async def _observe(
        self, states: AlertStates, checks: Mapping[str, str | None], *, at_once: bool
    ) -> list[Notice]:
        now = datetime.now(UTC)
        before = await states.read(checks)
        after: dict[str, AlertState] = {}
        notices = []
        for subject, error in checks.items():
            after[subject], notice = next_state(
                before.get(subject), subject, error, now,
                remind_after=self._remind_after, at_once=at_once,
            )  # fmt: skip
            if notice is not None:
                notices.append(notice)
        if notices and not await self._tell(notices):
            notices = []
        for notice in notices:
            after[notice.subject] = after_telling(after[notice.subject], notice, now)
        changed = [
            state
            for subject, state in after.items()
            if state != before.get(subject) and (subject in before or state.score)
        ]
        if changed:
            await states.write(changed)
        return notices

    async def _tell(self, notices: Sequence[Notice]) -> bool:
        """Tell of them. Returns whether one channel at least took it."""
        telling = (self._tell_over(channel, notices) for channel in self._channels)
        return any(await asyncio.gather(*telling))

    async def _tell_over(self, channel: Channel, notices: Sequence[Notice]) -> bool:
        try:
            async with asyncio.timeout(CHANNEL_TIMEOUT_S):
                await channel.tell(notices, self._source)
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the others go on
            words = str(error) or type(error).__name__
            log.error('alert.failed', channel=channel.name, error=words[:300])
            return False
        for notice in notices:
            log.warning(
                'alert.sent', channel=channel.name, subject=notice.subject, kind=notice.kind.value
            )
        return True
