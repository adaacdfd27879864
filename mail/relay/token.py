"""OAuth access tokens for XOAUTH2, from a file or from a command."""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from mail.relay.errors import RelayError

MAX_BYTES = 64 * 1024
TOKEN = re.compile(r'[\x21-\x7e]{1,16384}')
# Of a token without an expiry; it is asked for earlier when a relay refuses it.
UNKNOWN_LIFE_S = 300.0
SPARE_S = 60.0  # a token this near to its end is not used any more


class TokenError(RelayError):
    """There is no token; that costs no e-mail an attempt."""


class TokenSource:
    """Where tokens come from: a file that somebody else renews, or a command that prints one.

    The command prints the token, or JSON as a token endpoint answers (RFC 6749, 5.1): access_token,
    expires_in in seconds. It is run without a shell, once however many connections want a token.
    """

    def __init__(
        self, *, file: Path | None = None, command: Sequence[str] = (), timeout_s: float = 30.0
    ) -> None:
        """Take the one or the other."""
        self._file, self._command, self._timeout_s = file, command, timeout_s
        self._token: str | None = None
        self._until = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def get(self, *, instead_of: str | None = None) -> str:
        """Return a token that should be accepted.

        Args:
            instead_of: A token that was refused.
        Raises:
            TokenError: there is none; it says why, without what the command printed.
        """
        if self._file is not None:
            return _token(
                await asyncio.to_thread(_read, self._file), f'the token file {self._file}'
            )[0]
        async with self._one_at_a_time:
            if self._token is None or self._token == instead_of or time.monotonic() >= self._until:
                what = f'the token command {self._command[0]}'
                printed = await _run(self._command, what, self._timeout_s)
                self._token, life_s = _token(printed, what)
                self._until = time.monotonic() + life_s
            return self._token


def _read(file: Path) -> bytes:
    try:
        with file.open('rb') as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise TokenError(
            f'the token file {file} cannot be read: {error.strerror or error}'
        ) from None


def _token(text: bytes, what: str) -> tuple[str, float]:
    """Read a token and the seconds it may be kept, alone or in JSON."""
    token, life_s = text.decode('utf-8', 'replace').strip(), UNKNOWN_LIFE_S
    if token.startswith('{'):
        try:
            answer = json.loads(token)
        except (ValueError, RecursionError):
            raise TokenError(f'{what} gave JSON that cannot be read') from None
        token, expires_in = answer.get('access_token'), answer.get('expires_in')
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            life_s = max(0.0, float(expires_in) - SPARE_S)
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise TokenError(
            f'{what} gave no token: one line of printable ASCII, or JSON with access_token'
        )
    return token, life_s


async def _run(command: Sequence[str], what: str, timeout_s: float) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that what it started ends with it
        )
    except OSError as error:
        raise TokenError(f'{what} cannot be run: {error.strerror or error}') from None
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    try:
        async with asyncio.timeout(timeout_s):
            printed, complaint = await asyncio.gather(
                _read_all(process.stdout), _read_all(process.stderr)
            )
            status = await process.wait()
    except TimeoutError:
        raise TokenError(f'{what} did not end within {timeout_s:g} s') from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if len(printed) > MAX_BYTES:
        raise TokenError(f'{what} printed more than {MAX_BYTES} bytes')
    if status != 0:
        last = complaint.decode('utf-8', 'replace').strip().rpartition('\n')[2][:200]
        raise TokenError(f'{what} ended with status {status}{": " + last if last else ""}')
    return printed


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    """Read to the end; keep the beginning only."""
    kept = b''
    while part := await stream.read(MAX_BYTES):
        kept = (kept + part)[: MAX_BYTES + 1]
    return kept
