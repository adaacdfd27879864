"""Where kombu keeps messages in a Redis database, found without knowing any queue's name.

A queue is a list of messages, or one for each step of priority (<queue><separator><step>); what
workers have taken and not acknowledged is a hash by delivery tag, beside a sorted set of the same
tags by the time at which they were taken. Key prefix, separator, steps and the names of hash and
sorted set are options of the transport. What queues there are stands in sets,
_kombu.binding.<exchange>.

Source: kombu/transport/redis.py
"""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

Client = Any  # an ArqRedis; redis-py's types do not know which of its methods are to be awaited

OURS = b'mail:celery-'  # what this program keeps of Celery's
BINDING = b'_kombu.binding.'
SEPARATOR = b'\x06\x16'
SCAN_COUNT = 5000  # keys looked at per round trip: 2 ms of Redis's time each
LOOK_AT = 500  # lists or hashes looked into per round trip
REPLIES = re.compile(rb'\.pidbox(\W+[0-9])?$')  # answers to `celery inspect`, nobody's work
STEP = re.compile(SEPARATOR + rb'[0-9]+$')  # of a priority
# Another separator, in the binding of a direct exchange: key, nothing, queue.
DOUBLED = re.compile(rb'.*?(\W+?)\1')
RESULTS = '*celery-task-meta-*'


@dataclass(frozen=True, slots=True)
class Container:
    """One key that holds messages: a list, or the hash of those that workers had taken."""

    key: bytes
    length: int
    is_hash: bool = False
    index: bytes | None = None  # of a hash: its sorted set

    @property
    def name(self) -> str:
        """The key as text."""
        return self.key.decode(errors='backslashreplace')


@dataclass(slots=True)
class Containers:
    """What a database holds of Celery's."""

    lists: list[Container] = field(default_factory=list)
    hashes: list[Container] = field(default_factory=list)
    bound: set[bytes] = field(default_factory=set)  # names of queues, with the key prefix
    replies: int = 0  # lists with answers to `celery inspect`: left alone

    @property
    def all(self) -> list[Container]:
        """Every key that holds messages."""
        return [*self.lists, *self.hashes]

    @property
    def messages(self) -> int:
        """How many messages there are."""
        return sum(container.length for container in self.all)

    @property
    def is_kombus(self) -> bool:
        """Whether kombu was ever here."""
        return bool(self.all or self.bound)


# A message of kombu's ends with its properties. Only what is one is answered: an application may
# have a million hashes.
LOOK_SCRIPT = """
local found = {}
for _, key in ipairs(KEYS) do
    local kind, values, length = redis.call('TYPE', key).ok, {}, 0
    if kind == 'list' then
        length = redis.call('LLEN', key)
        for _, i in ipairs({0, 1, 2, 3, -1, -2, -3, -4}) do
            values[#values + 1] = redis.call('LINDEX', key, i)
        end
    elseif kind == 'hash' then
        length = redis.call('HLEN', key)
        for _, tag in ipairs(redis.call('HRANDFIELD', key, 3)) do
            values[#values + 1] = redis.call('HGET', key, tag)
        end
    end
    local is_kombus = 0
    for _, value in ipairs(values) do
        if value and string.find(value, '"delivery_tag"', -4096, true)
            and string.find(value, '"body"', 1, true) then
            is_kombus = 1
        end
    end
    found[#found + 1] = is_kombus
    found[#found + 1] = length
end
return found
"""


async def find_containers(
    redis: Client, queues: Collection[str] = (), prefix: str = ''
) -> Containers:
    """Find every key of this database that holds messages of kombu's.

    Args:
        queues: Names that are Celery's whatever their lists hold, besides those that are bound.
        prefix: The broker's global_keyprefix, for these names.
    Raises:
        redis.RedisError, OSError: Redis does not answer, or this user may not look.
    """
    containers = Containers(bound=await find_bound_queues(redis))
    known = containers.bound | {(prefix + queue).encode() for queue in (*queues, 'celery')}
    async for keys in _scan(redis, 'list'):
        for key, is_kombus, length in await _look(redis, keys):
            if (is_kombus or is_named(key, known)) and REPLIES.search(key):
                containers.replies += 1
            elif is_kombus or is_named(key, known):
                containers.lists.append(Container(key, length))
    async for keys in _scan(redis, 'hash'):
        for key, is_kombus, length in await _look(redis, keys):
            if is_kombus:
                containers.hashes.append(Container(key, length, True, await find_index(redis, key)))
    containers.lists.sort(key=lambda container: container.key)
    return containers


async def find_bound_queues(redis: Client) -> set[bytes]:
    """Return the names of all queues that are bound to an exchange, with the key prefix."""
    found = set()
    async for keys in _scan(redis, 'set'):
        for key in keys:
            prefix, bound, _ = key.partition(BINDING)
            if bound:
                async for member in redis.sscan_iter(key, count=SCAN_COUNT):
                    separated = SEPARATOR in member
                    found.add(
                        prefix
                        + (
                            member.rpartition(SEPARATOR)[2]
                            if separated
                            else DOUBLED.sub(b'', member, 1)
                        )
                    )
    return found


def is_named(key: bytes, queues: Collection[bytes]) -> bool:
    """Whether a key has the name of one of these queues, with a step of priority or without.

    After another separator than kombu's own, messages alone tell: mail:2 may be anything.
    """
    return key in queues or STEP.sub(b'', key) in queues


async def find_index(
    redis: Client, key: bytes, candidates: Sequence[bytes] | None = None
) -> bytes | None:
    """Return the sorted set that belongs to a hash of messages: it has the same tags.

    Args:
        candidates: Look at these only, instead of all sorted sets.
    """
    tags = await redis.hrandfield(key, 3)
    usual = [key + b'_index'] if candidates is None else list(candidates)
    if found := await _with_members(redis, usual, tags):
        return found
    if candidates is None:
        async for keys in _scan(redis, 'zset'):
            if found := await _with_members(redis, keys, tags):
                return found
    return None


async def _with_members(
    redis: Client, keys: Sequence[bytes], members: Sequence[bytes]
) -> bytes | None:
    for start in range(0, len(keys) if members else 0, LOOK_AT):
        async with redis.pipeline(transaction=False) as pipe:
            for key in (batch := keys[start : start + LOOK_AT]):
                pipe.zmscore(key, members)
            answers = await pipe.execute(raise_on_error=False)
        for key, scores in zip(batch, answers, strict=True):
            if isinstance(scores, list) and any(score is not None for score in scores):
                return key
    return None


async def has_results(redis: Client) -> bool:
    """Whether results of Celery's tasks are kept here. They are left alone: they expire."""
    async for _ in redis.scan_iter(match=RESULTS, count=SCAN_COUNT, _type='string'):
        return True
    return False


async def other_databases(redis: Client) -> list[int]:
    """Return the numbers of this server's other databases that are not empty.

    There are none when this user may not ask.
    """
    try:
        keyspace = await redis.info('keyspace')
    except ResponseError:
        return []
    own = int(redis.connection_pool.connection_kwargs.get('db', 0))
    numbers = [
        int(name.removeprefix('db')) for name in keyspace if name.removeprefix('db').isdigit()
    ]
    return sorted(number for number in numbers if number != own)


async def _scan(redis: Client, kind: str) -> AsyncIterator[list[bytes]]:
    cursor = None
    while cursor != 0:
        cursor, keys = await redis.scan(cursor or 0, count=SCAN_COUNT, _type=kind)
        if theirs := [key for key in dict.fromkeys(keys) if not key.startswith(OURS)]:
            yield theirs


async def _look(redis: Client, keys: Sequence[bytes]) -> list[tuple[bytes, bool, int]]:
    """Say of each key whether it holds messages of kombu's, and how many values there are."""
    found = []
    for start in range(0, len(keys), LOOK_AT):
        batch = keys[start : start + LOOK_AT]
        answers = await redis.eval(LOOK_SCRIPT, len(batch), *batch)
        found += [
            (key, bool(is_kombus), length)
            for key, is_kombus, length in zip(batch, answers[::2], answers[1::2], strict=True)
        ]
    return found
