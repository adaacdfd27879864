"""The SMTP ingresses: each keeps a record as workers do, under an address that restarts keep.

One that ended without a goodbye is told of for a day, or until it is there again, or another was
started at the same port in its place: containers change their names.
"""

import json
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError

from fleet.registrar import FORGET_AFTER_S, Registry
from fleet.registry import LIFETIME_S, LONGEST_NAME_BYTES, is_worker_name, read_bodies, read_parts

INGRESSES = Registry('ingress', 'mail:ingress:', 'mail:ingresses')
MOST_INGRESSES = 100
ACCEPTED = 'accepted'
# What else ends a message, a command or a connection, by how its reply begins; the first that fits.
REFUSALS = {
    '451': 'not-stored',
    '452 4.3.1': 'no-room',
    '452 4.5.3': 'too-many-recipients',
    '452 4.7.0': 'quota',
    '550 5.7.1': 'sender-refused',
    '550': 'content-refused',
    '552': 'too-large',
    '553': 'address-refused',
    '530': 'not-logged-in',
    '535': 'login-refused',
    '454': 'login-not-checked',
    '421 4.4.2': 'too-slow',
    '421 4.7.0': 'too-much-talk',
    '421 4.3.2 too many': 'turned-away',
    '5': 'command-refused',
}


@dataclass(frozen=True, kw_only=True)
class IngressIdentity:
    """Who an ingress is.

    Attributes:
        ingress: Its machine, and the port there: the same after a restart.
        database: Which PostgreSQL database its mail goes to, see db.identity.
        certificate_expires_at: Of the one for STARTTLS, in seconds since 1970; 0 without.
    """

    ingress: str
    started_at: str = ''  # ISO 8601
    version: str = ''
    database: str = ''
    place: str = ''
    certificate_expires_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class IngressWork:
    """What an ingress does and has done.

    Attributes:
        outcomes: How often since its start: ACCEPTED, and the values of REFUSALS.
        accepted_bytes: Of all messages that were accepted.
        held_bytes: Of those that are being received.
        reply_s: Seconds from the final dot to its reply, by quantile, of the last minutes.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    accepted_bytes: int = 0
    held_bytes: int = 0
    connections: int = 0
    max_connections: int = 0
    reply_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IngressRecord(IngressIdentity, IngressWork):
    """One ingress as it described itself; of one that is gone, its name and since when.

    Attributes:
        seen_ago_s: By Redis's own clock.
        gone_s: How long it has been gone without a goodbye; None while it is there.
    """

    uptime_s: float = 0.0
    rss_bytes: int = 0
    loop_lag_ms: float = 0.0
    seen_ago_s: float = 0.0
    gone_s: float | None = None


async def read_ingresses(redis: ArqRedis) -> list[IngressRecord]:
    """Return the ingresses by name, MOST_INGRESSES at most, also those that are gone.

    None where this user of Redis may not read their records: an older redis-users.acl.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    now = time.time()
    last_seen = {
        name: seen_at
        for name, seen_at in await redis.zrangebyscore(
            INGRESSES.names_key, now - FORGET_AFTER_S, '+inf', start=0, num=MOST_INGRESSES,
            withscores=True,
        )
        if len(name) <= LONGEST_NAME_BYTES
    }  # fmt: skip
    if not last_seen:
        return []
    try:
        bodies = await read_bodies(redis, [INGRESSES.prefix.encode() + name for name in last_seen])
    except NoPermissionError:
        return []
    found = {record.ingress: record for body in bodies if (record := _read(*body)) is not None}
    started = [(_port(record), _started_at(record)) for record in found.values()]
    for name, seen_at in last_seen.items():
        text = name.decode(errors='backslashreplace')
        gone = IngressRecord(ingress=text, gone_s=round(max(0.0, now - seen_at), 1))
        if not any(port == _port(gone) and at > seen_at for port, at in started):
            found.setdefault(text, gone)
    return [found[name] for name in sorted(found)][:MOST_INGRESSES]


def _port(record: IngressRecord) -> str:
    return record.ingress.rpartition(':')[2]


def _started_at(record: IngressRecord) -> float:
    """Return seconds since 1970; 0 for what is no time."""
    try:
        return datetime.fromisoformat(record.started_at).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _read(body: Any, lives_for_ms: int) -> IngressRecord | None:
    try:
        record = read_parts(IngressRecord, json.loads(body or b'null'))
    except (TypeError, ValueError, RecursionError):
        return None
    if record is None or not is_worker_name(record.ingress):
        return None
    return replace(
        record, seen_ago_s=round(max(0.0, LIFETIME_S - lives_for_ms / 1000), 1), gone_s=None
    )
