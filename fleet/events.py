"""The channel of the events of delivery.activity: publishing them, and reading what others did."""

import json

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from delivery.activity import Event


def events_channel(redis: ArqRedis) -> str:
    """Return the channel of the events; channels are the whole server's."""
    return f'mail:events:{redis.connection_pool.connection_kwargs.get("db", 0)}'


async def publish_events(
    redis: ArqRedis, worker: str, batch: list[Event], database: str = ''
) -> None:
    """Publish to those who listen; without Redis nobody does.

    Args:
        database: Which we serve, see db.identity.
    """
    try:
        await redis.publish(
            events_channel(redis),
            json.dumps([{'worker': worker, 'database': database, **event} for event in batch]),
        )
    except (RedisError, OSError):
        return


def read_events(data: bytes) -> list[Event]:
    """Read a batch; nothing when it is none."""
    try:
        events = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return [e for e in events if isinstance(e, dict)] if isinstance(events, list) else []
