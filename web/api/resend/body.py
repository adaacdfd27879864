"""The body of a request: received within limits, and read without holding the loop."""

import asyncio
import marshal
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request

from web.api.problem import RefusalError
from web.api.resend.refusals import INVALID, TOO_MANY, refused

log = structlog.get_logger()

MAX_BYTES = 40 * 1024 * 1024  # as Resend has it for the attachments of an e-mail, encoded
# More is read by a process of its own: reading holds the interpreter's lock until it is done, and
# with it the loop. So much takes 15 ms at the worst, of numbers alone (2026-11).
SMALL_BYTES = 1024 * 1024
# Each is an object to make, and one that the garbage collector looks at.
MOST_CONTAINERS = 10_000
RECEIVE_S = 60.0
HELD_BYTES = 96 * 1024 * 1024  # of all requests under way: each takes some times its size
HELD_BYTES_OF_ONE = HELD_BYTES // 2  # of one client: whoever sends slowly holds up himself alone
LARGE_AT_ONCE = 1  # processes that read
READ_S = 20.0
READER = Path(__file__).with_name('large_body.py')
FRAME = struct.Struct('>I')


class Body(NamedTuple):
    """What a request says.

    Attributes:
        document: As JSON has it; in a large one `content` and `raw` are bytes already.
        digest: SHA-256 of the bytes as they came.
    """

    document: Any
    digest: bytes
    size_bytes: int


class Bodies:
    """Receives and reads bodies."""

    def __init__(self) -> None:
        self.held_bytes: Counter[str] = Counter()  # whose -> how many
        self._readers = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def read(self, request: Request, owner: str) -> AsyncIterator[Body]:
        """Yield the body, which counts as held until the request is answered.

        Args:
            owner: Whose request it is, see web.api.access.Principal.owner.
        Raises:
            RefusalError: it is too large, too slow or no JSON, or too much is under way.
        """
        held = 0

        def hold(size_bytes: int) -> None:
            nonlocal held
            if (
                self.held_bytes[owner] + size_bytes > HELD_BYTES_OF_ONE
                or self.held_bytes.total() + size_bytes > HELD_BYTES
            ):
                raise refused(
                    TOO_MANY, 'too much is being received', 'try again in a second',
                    HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=1,
                )  # fmt: skip
            self.held_bytes[owner] += size_bytes
            held += size_bytes

        try:
            data = await _receive(request, hold)
            if len(data) <= SMALL_BYTES and data.count(b'[') + data.count(b'{') <= MOST_CONTAINERS:
                yield Body(_small(data), sha256(data).digest(), len(data))
            else:
                digest = await asyncio.to_thread(lambda: sha256(data).digest())
                async with self._readers:
                    document = await _large(data)
                size_bytes = len(data)
                del data
                yield Body(document, digest, size_bytes)
        finally:
            self.held_bytes[owner] -= held
            if not self.held_bytes[owner]:
                del self.held_bytes[owner]


async def _receive(request: Request, hold: Callable[[int], None]) -> bytes:
    if request.headers.get('content-encoding', 'identity') != 'identity':
        raise refused(INVALID, 'the body is compressed', 'send it as it is',
                      HTTPStatus.UNSUPPORTED_MEDIA_TYPE)  # fmt: skip
    length = request.headers.get('content-length', '')
    announced_bytes = int(length) if length.isdecimal() else 0
    if announced_bytes > MAX_BYTES:
        raise _too_large()
    # All of it, before it comes: else many have a part of theirs each, and nobody gets done.
    hold(announced_bytes)
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(RECEIVE_S):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > MAX_BYTES:
                    raise _too_large()
                if size_bytes > announced_bytes:  # it was not announced
                    hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise refused(
            INVALID, f'the body did not come within {RECEIVE_S:.0f} s', 'send it at once',
            HTTPStatus.REQUEST_TIMEOUT,
        ) from error  # fmt: skip
    except ClientDisconnect as error:  # nobody reads the answer
        raise refused(INVALID, 'the body is not complete', '', HTTPStatus.BAD_REQUEST) from error
    return b''.join(chunks)


def _small(data: bytes) -> Any:
    if not data:
        raise no_json('it is empty')
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise no_json(str(error)) from error


async def _large(data: bytes) -> Any:
    """Have a process read a large body. What may hold the loop here is bounded: one e-mail."""
    answer, exit_status = await asyncio.to_thread(_read_apart, data)
    if exit_status:
        log.warning('web.body_unread', size_bytes=len(data), exit_status=exit_status)
        raise refused(
            INVALID, 'the body takes too much time or memory to read',
            'send fewer values, and files in base64', HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )  # fmt: skip
    found = []
    position = 0
    while position < len(answer):
        (size,) = FRAME.unpack_from(answer, position)
        position += FRAME.size
        # What our own process wrote, not what a client did.
        found.append(marshal.loads(memoryview(answer)[position : position + size]))  # noqa: S302
        position += size
        await asyncio.sleep(0)
    kind, *values = found
    if kind == 'error':
        raise no_json(values[0])
    if kind == 'too much':
        raise refused(
            INVALID, f'the body has {values[0]}', 'send less at once',
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )  # fmt: skip
    return values if kind == 'array' else values[0]


def _read_apart(data: bytes) -> tuple[bytes, int]:
    """Return what the process that reads wrote, and its exit status."""
    command = [sys.executable, '-I', str(READER)]
    try:
        done = subprocess.run(  # noqa: S603 - a program of ours
            command, input=data, capture_output=True, timeout=READ_S, check=False
        )
    except subprocess.TimeoutExpired:
        return b'', -signal.SIGKILL
    return done.stdout, done.returncode


def _too_large() -> RefusalError:
    return refused(
        INVALID, f'the body is larger than {MAX_BYTES} bytes', 'send less at once',
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )  # fmt: skip


def no_json(why: str) -> RefusalError:
    """Return the refusal of a body that cannot be read."""
    return refused(
        INVALID, f'the body is no JSON: {why[:200]}', 'send JSON in UTF-8', HTTPStatus.BAD_REQUEST
    )
