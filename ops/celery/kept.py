"""What was taken from Celery and is kept, and how it goes back to where it came from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from ops.celery.broker import (
    BATCH,
    BATCH_BYTES,
    END_BYTES,
    ENTRY,
    MAX_MESSAGE_BYTES,
    MOVE_TAG_SCRIPT,
    Entry,
    Fate,
    kept_key,
)
from ops.celery.keys import OURS, SCAN_COUNT, Client, Container, find_index
from ops.celery.messages import Meaning

TASKS_KEY = 'mail:celery-tasks'
RENAMED_KEY = 'mail:arq-queue-before-undo:'


async def remember_tasks(redis: Client, tasks: Mapping[str, str]) -> None:
    """Keep what an operator says of tasks, for the way back."""
    if tasks:
        await redis.hset(TASKS_KEY, mapping=tasks)


async def remembered_tasks(redis: Client) -> dict[str, Meaning]:
    """Return what remember_tasks kept."""
    kept = await redis.hgetall(TASKS_KEY)
    known = {meaning.encode(): meaning for meaning in Meaning}
    return {
        name.decode(errors='replace'): known[meaning]
        for name, meaning in kept.items()
        if meaning in known
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """What was taken from one container, and is kept."""

    key: bytes
    source: bytes
    container: Container  # the key it is kept in
    fate: Fate


async def find_kept(redis: Client) -> list[Kept]:
    """Return what was kept, what was set aside first.

    Put back in this order, the imported ones are next again.
    """
    keys = [key async for key in redis.scan_iter(match=OURS + b'*', count=SCAN_COUNT)]
    found = []
    for fate in (Fate.SET_ASIDE, Fate.IMPORTED):
        zsets = [key for key in keys if key.startswith(kept_key(fate, 'zset', b''))]
        for kind in ('list', 'hash'):
            prefix = kept_key(fate, kind, b'')
            for key in sorted(key for key in keys if key.startswith(prefix)):
                is_hash = kind == 'hash'
                length = int(await (redis.hlen if is_hash else redis.llen)(key))
                index = await find_index(redis, key, zsets) if is_hash else None
                found.append(
                    Kept(
                        key, key.removeprefix(prefix), Container(key, length, is_hash, index), fate
                    )
                )
    return found


async def read_kept(redis: Client, kept: Kept, passed: int = 0) -> list[Entry]:
    """Return the messages of a kept list that are put back next: the last that was taken first."""
    values = await redis.eval(
        READ_KEPT_SCRIPT, 1, kept.key, MAX_MESSAGE_BYTES, END_BYTES, BATCH, BATCH_BYTES, passed
    )
    return [
        Entry(data, size, digest)
        for size, digest, data in zip(*(values[i::3] for i in range(3)), strict=True)
    ]


READ_KEPT_SCRIPT = (
    ENTRY
    + """
local answer, room = {}, tonumber(ARGV[4])
for i = 0, tonumber(ARGV[3]) - 1 do
    local value = room > 0 and redis.call('LINDEX', KEYS[1], tonumber(ARGV[5]) + i)
    if not value then break end
    room = room - entry(answer, value)
end
return answer
"""
)
PUT_BACK_SCRIPT = """
for i = 1, #ARGV, 2 do
    local value = redis.call('LINDEX', KEYS[1], 0)
    if not value or redis.sha1hex(value) ~= ARGV[i] then return (i - 1) / 2 end
    redis.call('LMOVE', KEYS[1], KEYS[tonumber(ARGV[i + 1])], 'LEFT', 'RIGHT')
end
return #ARGV / 2
"""


async def put_back_in_list(redis: Client, kept: Kept, entries: Sequence[tuple[Entry, bool]]) -> int:
    """Put messages back to the end that they were taken from; those marked False stay kept.

    Returns:
        How many were dealt with; fewer than given when somebody else does the same.
    """
    arguments = [
        part for entry, goes_back in entries for part in (entry.digest, 2 if goes_back else 1)
    ]
    return int(await redis.eval(PUT_BACK_SCRIPT, 2, kept.key, kept.source, *arguments))


async def put_back_in_hash(redis: Client, kept: Kept, entries: Sequence[Entry]) -> None:
    """Put messages back among those that a worker had taken, with the time at which it did."""
    kept_index = kept.container.index or kept_key(kept.fate, 'zset', kept.source + b'_index')
    index = kept_index.removeprefix(kept_key(kept.fate, 'zset', b''))
    async with redis.pipeline(transaction=False) as pipe:
        for entry in entries:
            pipe.eval(
                MOVE_TAG_SCRIPT,
                4,
                kept.key,
                kept_index,
                kept.source,
                index,
                entry.tag,
                entry.digest,
            )
        await pipe.execute()


async def rename_queues(redis: Client, names: Collection[bytes]) -> list[str]:
    """Rename queues of arq that stand where Celery's lists belong, so that Celery can start.

    They hold only wake-ups.

    Returns:
        Their names.
    """
    moved = []
    for name in names:
        if await redis.type(name) == b'zset':
            try:
                await redis.renamenx(name, RENAMED_KEY.encode() + name)
            except ResponseError:  # gone meanwhile
                continue
            moved.append(name.decode(errors='backslashreplace'))
    return moved
