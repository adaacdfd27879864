"""Celery's queues in Redis: where kombu keeps messages, and how they are taken from there without losing any."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from fleet.celery_messages import Message

Client = Any  # an ArqRedis; redis-py's types do not know which of its methods are to be awaited

BATCH = 500
IMPORTED_KEY = 'mail:celery-imported'
SET_ASIDE_KEY = 'mail:celery-set-aside'
IMPORTED_FOR_S = 30 * 86400
UNACKED, UNACKED_INDEX = 'unacked', 'unacked_index'  # what workers had taken, and when
PRIORITIES = range(10)
SEPARATORS = ('\x06\x16', ':')  # kombu's own, and the one people set instead


async def count_consumers(redis: Client) -> int | None:
    """Count the clients that wait for messages the way Celery's workers do; None when we may not ask."""
    try:
        clients = await redis.client_list()
    except ResponseError:  # its ACL, or the command renamed away
        return None
    database = str(redis.connection_pool.connection_kwargs.get('db', 0))
    return sum(bool(client.get('cmd') == 'brpop' and client.get('db') == database) for client in clients)


async def find_lists(redis: Client, queues: Sequence[str], prefix: str = '') -> dict[str, int]:
    """Return the keys that hold messages of these queues, one per priority, with the number of messages.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    names = [
        f'{prefix}{queue}{suffix}'
        for queue in queues
        for suffix in ('', *(f'{separator}{priority}' for separator in SEPARATORS for priority in PRIORITIES))
    ]
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.type(name)
        kinds = await pipe.execute()
    return {name: int(await redis.llen(name)) for name, kind in zip(names, kinds, strict=True) if kind == b'list'}


async def look_through(redis: Client, name: str) -> AsyncIterator[list[bytes]]:
    """Return every message of a list in batches, the one that is taken next first, without taking any."""
    for end in range(await redis.llen(name), 0, -BATCH):
        yield list(reversed(await redis.lrange(name, max(0, end - BATCH), end - 1)))


async def read_end(redis: Client, name: str, count: int) -> list[bytes]:
    """Return up to count messages of a list, the one that is taken next first."""
    return list(reversed(await redis.lrange(name, -count, -1)))


# Each message is taken only if it is still the one that was read. What stays goes round to the other end, so that a
# pass sees every message once and leaves those that stay in their order.
TAKE_SCRIPT = """
for i = 1, #ARGV, 2 do
    if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[i] then return (i - 1) / 2 end
    redis.call('RPOP', KEYS[1])
    if ARGV[i + 1] == '' then
        redis.call('LPUSH', KEYS[1], ARGV[i])
    else
        redis.call('LPUSH', ARGV[i + 1], ARGV[i])
    end
end
return #ARGV / 2
"""


async def take(redis: Client, name: str, read: Sequence[tuple[Message, str | None]]) -> int:
    """Move messages from the end of a list, each to the key beside it; None leaves it there.

    Returns:
        How many were dealt with; fewer than given when somebody else takes messages from the list.
    """
    arguments = [part for message, to in read for part in (message.raw, to or '')]
    dealt_with = int(await redis.eval(TAKE_SCRIPT, 1, name, *arguments))
    await redis.expire(IMPORTED_KEY, IMPORTED_FOR_S)
    return dealt_with


async def look_through_unacked(redis: Client, prefix: str = '') -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Return the messages that workers had taken and not finished, with their tags, in batches."""
    name = prefix + UNACKED
    if await redis.type(name) != b'hash':
        return
    seen: set[bytes] = set()
    cursor = 0
    while True:
        cursor, found = await redis.hscan(name, cursor, count=BATCH)
        batch = [(tag, raw) for tag, raw in found.items() if tag not in seen]
        seen.update(found)
        if batch:
            yield batch
        if not cursor:
            return


async def take_unacked(redis: Client, tag: bytes, raw: bytes, to: str, prefix: str = '') -> None:
    """Move one message that a worker had taken."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.lpush(to, raw)
        pipe.expire(IMPORTED_KEY, IMPORTED_FOR_S)
        pipe.hdel(prefix + UNACKED, tag)
        pipe.zrem(prefix + UNACKED_INDEX, tag)
        await pipe.execute()
