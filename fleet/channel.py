"""Commands to live workers through Redis, and their replies.

A command is published as JSON to a channel that all workers hear, or to those of named ones; each
pushes one JSON reply to a list that is named by the request and lives for REPLY_LIFETIME_S.
Channels are the whole server's, so they carry the number of the database. Whoever may publish to
the queue's Redis may control the workers; that is why a command is a word out of a fixed table with
numbers and names as arguments, and never code, a path or a file's name.
"""

import asyncio
import fnmatch
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.identity import is_other
from fleet.registry import is_worker_name

log = structlog.get_logger()

REPLY_PREFIX = 'mail:reply:'
REPLY_LIFETIME_S = 30
MAX_COMMAND_BYTES = 4096
MAX_REPLY_CHARS = 512 * 1024
SILENCE_S = 4.0  # below the client's own time-out for a reply
RECONNECT_S = 1.0
REQUEST_ID = re.compile('[0-9a-f]{32}')

Arguments = Mapping[str, Any]
Reply = dict[str, Any]


class RefusedError(Exception):
    """The worker does not do it; the message says why."""


@dataclass(frozen=True, slots=True)
class Handler:
    """One command: what it does, and a check for each argument; all arguments are required."""

    do: Callable[[Arguments], Awaitable[Reply] | Reply]
    arguments: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControlCommand:
    """A request that is well formed."""

    request_id: str
    name: str
    arguments: Arguments
    database: str | None = None  # whose workers are meant, see db.identity; None: all who hear it


def command_channel(redis: ArqRedis, worker: str | None = None) -> str:
    """Return the channel of all workers, or of one."""
    every = f'mail:control:{redis.connection_pool.connection_kwargs.get("db", 0)}'
    return every if worker is None else f'{every}:{worker}'


def read_command(data: bytes) -> ControlCommand:
    """Read a request.

    Raises:
        RefusedError: it is not one.
    """
    if len(data) > MAX_COMMAND_BYTES:
        raise RefusedError(f'longer than {MAX_COMMAND_BYTES} bytes')
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError('not JSON') from None
    if not isinstance(request, dict) or set(request) - {'database'} != {
        'id',
        'command',
        'arguments',
    }:
        raise RefusedError('not an object with id, command and arguments')
    request_id, name, arguments, database = (
        request['id'],
        request['command'],
        request['arguments'],
        request.get('database'),
    )
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        raise RefusedError('id must be 32 hexadecimal digits')
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RefusedError('command must be a word, arguments an object')
    if database is not None and not isinstance(database, str):
        raise RefusedError('database must be text')
    return ControlCommand(request_id, name, arguments, database)


def is_count(value: Any) -> bool:
    """Whether a value is a number of things, from 1 to 1000."""
    return type(value) is int and 1 <= value <= 1000


def is_rate(value: Any) -> bool:
    """Whether a value is a number per second; 0 means no limit."""
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1_000_000


async def obey(handlers: Mapping[str, Handler], command: ControlCommand) -> Reply:
    """Do what a command says.

    Returns:
        {'done': {...}} or {'refused': 'why'}. Faults of a handler are reported as refusals: the
        listener must go on.
    """
    try:
        done = _find(handlers, command).do(command.arguments)
        return {'done': done if isinstance(done, dict) else await done}
    except RefusedError as refusal:
        return {'refused': str(refusal)}
    except Exception as error:
        log.exception('command.failed', command=command.name[:40])
        return {'refused': f'failed: {type(error).__name__}; see the log of the worker'}


def _find(handlers: Mapping[str, Handler], command: ControlCommand) -> Handler:
    handler = handlers.get(command.name)
    if handler is None:
        raise RefusedError(
            f'unknown command {command.name[:40]!r}; known: {", ".join(sorted(handlers))}'
        )
    if set(command.arguments) != set(handler.arguments):
        raise RefusedError(f'{command.name} takes {", ".join(handler.arguments) or "no arguments"}')
    for name, is_valid in handler.arguments.items():
        if not is_valid(command.arguments[name]):
            raise RefusedError(f'{command.name}: {name} is out of range')
    return handler


async def listen_for_commands(
    redis: ArqRedis, worker: str, handlers: Mapping[str, Handler], database: str | None = None
) -> None:
    """Obey and reply until cancelled; listen again when Redis comes back.

    Args:
        database: Which we serve: commands for the workers of another are not for us, though they
            may have our name.
    """
    while True:
        try:
            async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(command_channel(redis), command_channel(redis, worker))
                while True:
                    message = await pubsub.get_message(timeout=SILENCE_S)
                    if message is not None:
                        await _answer(redis, worker, handlers, message['data'], database)
        except (RedisError, OSError) as error:
            log.debug('command.channel_lost', error=str(error) or type(error).__name__)
        await asyncio.sleep(RECONNECT_S)


async def _answer(
    redis: ArqRedis, worker: str, handlers: Mapping[str, Handler], data: bytes, database: str | None
) -> None:
    try:
        command = read_command(data)
    except RefusedError as refusal:
        log.warning('command.refused', reason=str(refusal))
        return
    if is_other(command.database, database):
        log.debug('command.foreign', command=command.name[:40])
        return
    reply = await obey(handlers, command)
    if 'refused' in reply:
        log.warning('command.refused', command=command.name[:40], reason=reply['refused'])
    elif command.name not in QUIET:
        log.info('command.obeyed', command=command.name, arguments=dict(command.arguments))
    text = json.dumps({'worker': worker, **reply}, default=str)
    if len(text) > MAX_REPLY_CHARS:
        text = json.dumps({'worker': worker, 'refused': 'the answer is too long'})
    key = REPLY_PREFIX + command.request_id
    async with redis.pipeline(transaction=True) as pipe:
        pipe.rpush(key, text)
        pipe.expire(key, REPLY_LIFETIME_S)
        await pipe.execute()


QUIET = frozenset({'ping', 'describe', 'conf', 'events', 'stacks'})  # change nothing


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back."""

    replies: list[Reply]  # each with worker, and done or refused; by worker
    heard: int  # how many workers got the command

    @property
    def silent(self) -> int:
        """How many got the command and did not reply in time."""
        return max(0, self.heard - len(self.replies))


async def ask(
    redis: ArqRedis,
    command: str,
    arguments: Arguments | None = None,
    *,
    workers: Sequence[str] | None = None,
    database: str | None = None,
    timeout_s: float = 2.0,
) -> Asked:
    """Send a command and wait for the replies, at most until the time-out.

    Args:
        workers: Full names; all workers when None.
        database: Only those that serve it obey; they must be of a version that knows which it
            serves.
    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    request_id = uuid4().hex
    request: dict[str, Any] = {
        'id': request_id,
        'command': command,
        'arguments': dict(arguments or {}),
    }
    text = json.dumps(request if database is None else request | {'database': database})
    heard = 0
    for name in [None] if workers is None else dict.fromkeys(workers):
        heard += await redis.publish(command_channel(redis, name), text)
    deadline = time.monotonic() + timeout_s
    replies: list[Reply] = []
    key = REPLY_PREFIX + request_id
    while len(replies) < heard and (left_s := deadline - time.monotonic()) > 0:
        # Redis waits without end for 0, and for less than a millisecond.
        # redis-py knows blpop with whole seconds only.
        popped: Any = redis.blpop([key], timeout=max(0.01, min(left_s, 1.0)))  # type: ignore[arg-type]
        if (found := await popped) is not None and (reply := _read_reply(found[1])) is not None:
            replies.append(reply)
    return Asked(sorted(replies, key=lambda reply: str(reply['worker'])), heard)


def _read_reply(data: bytes) -> Reply | None:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(reply, dict)
        or not isinstance(reply.get('worker'), str)
        or not is_worker_name(reply['worker'])
    ):
        return None
    return (
        reply
        if isinstance(reply.get('done'), dict) or isinstance(reply.get('refused'), str)
        else None
    )


def chosen_workers(patterns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the workers that are meant.

    Patterns with * ? [] choose among the known ones; other names stand for themselves.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        chosen.update(dict.fromkeys(found or ([] if set(pattern) & set('*?[') else [pattern])))
    return list(chosen)
