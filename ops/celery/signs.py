"""Whether a Celery runs on a Redis database: two that take the same messages send mail twice.

kombu's workers wait in BRPOP, whose name stays their connection's last command while they are busy.
What they have taken changes as they work, and what they are to do grows as beat and the application
ask for more.

Source: kombu/transport/redis.py
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from ops.celery.keys import Client, Container, Containers, find_containers
from reporting.wording import counted

LOOK_AGAIN_S = 1.0
WRITES = ('lpush', 'sadd')  # what a producer did last: beat, or the application


@dataclass(slots=True)
class Signs:
    """What was seen. None: it could not be asked."""

    waiting: int | None = None  # clients that wait for messages
    listening: int = 0  # subscribers of Celery's control messages, on plain channels
    producers: int = 0  # clients that put messages there last: no harm, but more may come
    changed: list[str] = field(
        default_factory=list
    )  # keys from which messages went between two looks
    growing: list[str] = field(
        default_factory=list
    )  # lists to which some only came: no harm, but more may come
    messages: int | None = None  # how many are there
    unknown: list[str] = field(default_factory=list)  # what could not be asked, and why

    @property
    def is_running(self) -> bool:
        """Whether somebody takes messages."""
        return bool(self.waiting or self.listening or self.changed)

    @property
    def is_gone(self) -> bool:
        """Whether it is certain that nobody waits and nothing is left to import."""
        return not (self.is_running or self.growing or self.unknown) and self.messages == 0

    @property
    def in_words(self) -> str:
        """The signs in words, for the end of a sentence; empty when there are none."""
        parts = []
        if self.waiting:
            waits = counted(self.waiting, 'client waits', 'clients wait')
            parts.append(f'{waits} for messages in this database, as Celery workers do')
        if self.listening:
            listens = counted(self.listening, 'client listens', 'clients listen')
            parts.append(f"{listens} to Celery's control messages")
        if self.changed:
            parts.append(f'messages are taken from {", ".join(self.changed[:5])}')
        return ', and '.join(parts)

    def as_document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            'is_running': self.is_running,
            'waiting': self.waiting,
            'listening': self.listening,
            'producers': self.producers,
            'changed': self.changed,
            'growing': self.growing,
            'messages': self.messages,
            'unknown': self.unknown,
        }


async def signs_of_celery(
    redis: Client, *, containers: Containers | None = None, look_again_s: float | None = None
) -> Signs:
    """Look for a running Celery on the client's database.

    A Redis that is unreachable raises nothing: that is among the signs.

    Args:
        containers: What ops.celery.keys.find_containers found, when the caller has looked already.
        look_again_s: How long to wait between the two looks at what there is, LOOK_AGAIN_S by
            default; 0 looks once.
    """
    signs = Signs()
    try:
        await _count_clients(redis, signs)
        await _count_listeners(redis, signs)
        await _watch(
            redis, signs, containers, LOOK_AGAIN_S if look_again_s is None else look_again_s
        )
    except (RedisError, OSError) as error:
        signs.unknown.append(f'Redis does not answer: {error}'[:200])
    return signs


async def _count_clients(redis: Client, signs: Signs) -> None:
    """Count those that wait for messages the way kombu's workers do."""
    try:
        clients = await redis.client_list()
    except ResponseError:  # its ACL, or the command renamed
        signs.unknown.append(
            'CLIENT LIST is not permitted: nobody can say whether Celery workers wait here'
        )
        return
    database = str(redis.connection_pool.connection_kwargs.get('db', 0))
    commands = [
        str(client.get('cmd')).lower() for client in clients if client.get('db') == database
    ]
    signs.waiting = commands.count('brpop')
    signs.producers = sum(command in WRITES for command in commands)


async def _count_listeners(redis: Client, signs: Signs) -> None:
    """Count subscribers of pidbox on plain channels.

    Those of patterns, kombu's default, cannot be distinguished from an application's.
    """
    try:
        channels = await redis.pubsub_channels('*.pidbox')
        signs.listening = (
            sum(count for _, count in await redis.pubsub_numsub(*channels)) if channels else 0
        )
    except ResponseError:
        return  # CLIENT LIST says more


async def _watch(
    redis: Client, signs: Signs, containers: Containers | None, look_again_s: float
) -> None:
    """Look twice.

    What goes from the end that workers take from is being worked on; what only comes is asked for.
    """
    try:
        found = containers or await find_containers(redis)
        before = await _states(redis, found.all)
        signs.messages = sum(state.length for state in before.values())
        if look_again_s:
            await asyncio.sleep(look_again_s)
            containers_now = {
                container.name: container
                for container in [*found.all, *(await find_containers(redis)).all]
            }
            after = await _states(redis, list(containers_now.values()))
            for name, state in after.items():
                old = before.get(name, _State(0, b'', is_hash=state.is_hash))
                if state.is_hash or not old.length:
                    goes = state.is_hash and state != old
                else:
                    goes = state.next != old.next or state.length < old.length
                if goes:
                    signs.changed.append(name)
                elif state.length > old.length:
                    signs.growing.append(name)
            signs.messages = sum(state.length for state in after.values())
    except ResponseError as error:
        signs.unknown.append(f'this user may not look at the keys of Redis: {error}'[:200])


class _State(NamedTuple):
    """What distinguishes one moment of a container from another."""

    length: int
    # A digest of the message that is taken next; of a hash, of the one that was taken last.
    next: bytes
    is_hash: bool


STATE_SCRIPT = """
local kind, length, mark = redis.call('TYPE', KEYS[1]).ok, 0, ''
if kind == 'list' then
    length, mark = redis.call('LLEN', KEYS[1]), redis.call('LINDEX', KEYS[1], -1) or ''
elseif kind == 'hash' then
    length = redis.call('HLEN', KEYS[1])
    local has_index = redis.call('TYPE', KEYS[2]).ok == 'zset'
    mark = has_index and redis.call('ZRANGE', KEYS[2], -1, -1)[1] or ''
end
return {length, redis.sha1hex(mark)}
"""


async def _states(redis: Client, containers: Sequence[Container]) -> dict[str, _State]:
    async with redis.pipeline(transaction=False) as pipe:
        for container in containers:
            pipe.eval(STATE_SCRIPT, 2, container.key, container.index or container.key + b'_index')
        answers = await pipe.execute()
    return {
        container.name: _State(length, mark, is_hash=container.is_hash)
        for container, (length, mark) in zip(containers, answers, strict=True)
    }
