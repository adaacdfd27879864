"""Taking Celery's messages out of Redis without losing any or their order.

What is taken from a list is kept in a list that ends with the same name, in the same order: each
step moves one message with LMOVE. What is taken from the hash of those that workers had taken is
kept with its tag, and its time in a sorted set. So the bytes stay as they were, and an interruption
leaves each message in one place.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ops.celery.keys import Client, Container
from ops.celery.messages import Meaning, Message, read_message

BATCH = 500
TAGS_BATCH = 100
BATCH_BYTES = 8 * 2**20
MAX_MESSAGE_BYTES = 4 * 2**20  # a larger one is not read, but for its end
END_BYTES = 64 * 2**10  # of it: the headers are there

# <which>:list:<key>, <which>:hash:<key> and <which>:zset:<key>, in Celery's database. Neither
# expires.
IMPORTED_KEY = 'mail:celery-imported'
SET_ASIDE_KEY = 'mail:celery-set-aside'


class Fate(Enum):
    """Where a message goes."""

    STAYS = ''
    IMPORTED = IMPORTED_KEY
    SET_ASIDE = SET_ASIDE_KEY


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it stands in Redis."""

    data: bytes  # all of it, or the last END_BYTES of what is larger than MAX_MESSAGE_BYTES
    size_bytes: int
    digest: bytes  # SHA-1 in hexadecimal, of all of it
    tag: bytes | None = None  # in a hash

    @property
    def is_whole(self) -> bool:
        """Whether data is all of it."""
        return len(self.data) == self.size_bytes

    def read(self, tasks: Mapping[str, Meaning]) -> Message:
        """Read it, see ops.celery.messages.read_message."""
        return read_message(self.data, tasks, unacked=self.tag is not None, whole=self.is_whole)


def kept_key(fate: Fate | str, kind: str, key: bytes) -> bytes:
    """Return where messages of a key are kept."""
    which = fate.value if isinstance(fate, Fate) else fate
    return f'{which}:{kind}:'.encode() + key


# Chunks that grow: one LRANGE of all could copy gigabytes, one LINDEX for each is slow in the
# middle of a long list.
ENTRY = """
local function entry(answer, value)
    answer[#answer + 1] = #value
    answer[#answer + 1] = redis.sha1hex(value)
    local is_large = #value > tonumber(ARGV[1])
    answer[#answer + 1] = is_large and string.sub(value, -tonumber(ARGV[2])) or value
    return #answer[#answer]
end
"""
READ_LIST_SCRIPT = (
    ENTRY
    + """
local passed, wanted, room = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local answer, chunk = {}, 20
while wanted > 0 and room > 0 do
    local values = redis.call('LRANGE', KEYS[1], -passed - math.min(chunk, wanted), -passed - 1)
    for i = #values, 1, -1 do
        room = room - entry(answer, values[i])
        passed, wanted = passed + 1, wanted - 1
        if room <= 0 then break end
    end
    if #values < math.min(chunk, wanted) then break end
    chunk = chunk * 2
end
return answer
"""
)


async def read_list(redis: Client, key: bytes, passed: int, count: int) -> list[Entry]:
    """Return up to count messages of a list, the one that is taken next first.

    There are fewer when they are large.

    Args:
        passed: How many to step over, from the end that Celery takes from.
    Raises:
        redis.RedisError, OSError: Redis does not answer; the same for the others here.
    """
    answer = await redis.eval(
        READ_LIST_SCRIPT,
        1,
        key,
        MAX_MESSAGE_BYTES,
        END_BYTES,
        passed,
        min(count, BATCH),
        BATCH_BYTES,
    )
    return [
        Entry(data, size, digest)
        for size, digest, data in zip(*(answer[i::3] for i in range(3)), strict=True)
    ]


async def look_through(redis: Client, container: Container) -> AsyncIterator[list[Entry]]:
    """Return every message of a container in batches, without taking any."""
    if container.is_hash:
        async for batch in _look_through_hash(redis, container.key):
            yield batch
        return
    passed = 0
    while passed < container.length:
        batch = await read_list(redis, container.key, passed, container.length - passed)
        if not batch:
            return
        passed += len(batch)
        yield batch


TAGS_SCRIPT = """
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local answer = {page[1]}
for i = 1, #page[2], 2 do
    answer[#answer + 1] = page[2][i]
    answer[#answer + 1] = #page[2][i + 1]
end
return answer
"""
READ_HASH_SCRIPT = (
    ENTRY
    + """
local answer = {}
for i = 3, #ARGV do
    local value = redis.call('HGET', KEYS[1], ARGV[i])
    if value then
        answer[#answer + 1] = ARGV[i]
        entry(answer, value)
    end
end
return answer
"""
)


async def _look_through_hash(redis: Client, key: bytes) -> AsyncIterator[list[Entry]]:
    cursor: bytes | int | None = None
    while cursor is None or int(cursor):
        cursor, *page = await redis.eval(TAGS_SCRIPT, 1, key, cursor or 0, TAGS_BATCH)
        group: list[bytes] = []
        room = BATCH_BYTES
        for tag, size in zip(page[::2], page[1::2], strict=True):
            group.append(tag)
            room -= min(size, MAX_MESSAGE_BYTES)
            if room <= 0:
                yield await _read_hash(redis, key, group)
                group, room = [], BATCH_BYTES
        if group:
            yield await _read_hash(redis, key, group)


async def _read_hash(redis: Client, key: bytes, tags: Sequence[bytes]) -> list[Entry]:
    answer = await redis.eval(READ_HASH_SCRIPT, 1, key, MAX_MESSAGE_BYTES, END_BYTES, *tags)
    parts = (answer[i::4] for i in range(4))
    return [Entry(data, size, digest, tag) for tag, size, digest, data in zip(*parts, strict=True)]


# Each message is moved only if it is still the one that was read. What stays goes round to the
# other end, so that a pass sees every message once and leaves those that stay in their order.
TAKE_LIST_SCRIPT = """
for i = 1, #ARGV, 2 do
    local value = redis.call('LINDEX', KEYS[1], -1)
    if not value or redis.sha1hex(value) ~= ARGV[i] then return (i - 1) / 2 end
    redis.call('LMOVE', KEYS[1], KEYS[tonumber(ARGV[i + 1])], 'RIGHT', 'LEFT')
end
return #ARGV / 2
"""
_KEYS = {Fate.STAYS: 1, Fate.IMPORTED: 2, Fate.SET_ASIDE: 3}


async def take_from_list(redis: Client, key: bytes, fates: Sequence[tuple[Entry, Fate]]) -> int:
    """Move messages from the end of a list, each to where it is to go.

    Returns:
        How many were dealt with; fewer than given when somebody else takes messages from the list.
    """
    keys = [key, *(kept_key(fate, 'list', key) for fate in (Fate.IMPORTED, Fate.SET_ASIDE))]
    arguments = [part for entry, fate in fates for part in (entry.digest, _KEYS[fate])]
    return int(await redis.eval(TAKE_LIST_SCRIPT, len(keys), *keys, *arguments))


# KEYS: from and to, each a hash and its sorted set; the names of a missing one are those of the
# hash, with _index.
MOVE_TAG_SCRIPT = """
local value, score = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('ZSCORE', KEYS[2], ARGV[1])
if not value or redis.sha1hex(value) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], value)
if score then redis.call('ZADD', KEYS[4], score, ARGV[1]) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""


async def take_from_hash(
    redis: Client, container: Container, fates: Sequence[tuple[Entry, Fate]]
) -> None:
    """Move messages that a worker had taken; those that are gone meanwhile are nobody's loss."""
    index = container.index or container.key + b'_index'
    async with redis.pipeline(transaction=False) as pipe:
        for entry, fate in fates:
            if fate is not Fate.STAYS:
                to = kept_key(fate, 'hash', container.key), kept_key(fate, 'zset', index)
                pipe.eval(MOVE_TAG_SCRIPT, 4, container.key, index, *to, entry.tag, entry.digest)
        await pipe.execute()
