"""The tokens in use, as a server that asks for them knows them."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

from db.api_tokens import ApiToken, note_use, read_live_tokens
from reporting.problems import ProblemError
from reporting.servers import Servers

# A token that was revoked is refused after FRESH_S at the latest; while PostgreSQL does not answer
# within PATIENCE_S, after STALE_S.
FRESH_S, PATIENCE_S, STALE_S = 2.0, 1.0, 60.0
RENEW_S = 1.0  # older than this, the tokens are read again while they go on to serve
# A token that is not known may be new; so the tokens are read again, but not for each guess.
BETWEEN_READS_S = 0.25
NOTE_USE_EVERY_S = 60.0
CLOSE_S = 1.0  # a stop waits for nobody


class KnownTokens:
    """All tokens in use, in memory: no request costs a statement."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._tokens: dict[bytes, ApiToken] = {}
        self._read_at = -STALE_S  # when the statement that they come from began
        self._reading: asyncio.Task[None] | None = None
        self._used: dict[int, datetime] = {}
        self._noted_at = time.monotonic()

    async def find(self, digest: bytes, *, patient: bool = True) -> ApiToken | None:
        """Return the token with this hash, if it is in use.

        Args:
            patient: Look again for one that is not known, which may be new.
        Raises:
            ProblemError: PostgreSQL does not answer, and has not for STALE_S.
        """
        age_s = time.monotonic() - self._read_at
        if age_s > FRESH_S:
            await self._read_unless_down()
        elif age_s > RENEW_S:
            self._begin_to_read()
        token = self._tokens.get(digest)
        if token is None and patient:
            await self._read_after(time.monotonic())
            token = self._tokens.get(digest)
        now = datetime.now(UTC)
        if token is None or (token.expires_at is not None and token.expires_at <= now):
            return None
        self._used[token.id] = now
        return token

    async def close(self) -> None:
        """Write down who was here last, if PostgreSQL answers."""
        if self._reading is not None:
            self._reading.cancel()
        if self._used:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._note_use()

    async def _read_unless_down(self) -> None:
        """Wait for the tokens as they are now; when they do not come, those of before serve."""
        reading = self._begin_to_read()
        await asyncio.wait({reading}, timeout=PATIENCE_S)
        if time.monotonic() - self._read_at > STALE_S:
            await asyncio.shield(reading)

    async def _read_after(self, asked_at: float) -> None:
        """Wait for a reading that began after this moment; everybody who waits shares it."""
        while self._read_at < asked_at:
            await asyncio.shield(self._begin_to_read())

    def _begin_to_read(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_seen)
        return self._reading

    async def _read(self) -> None:
        await asyncio.sleep(max(0.0, self._read_at + BETWEEN_READS_S - time.monotonic()))
        began_at = time.monotonic()
        self._tokens = await self._servers.ask_postgres(read_live_tokens)
        self._read_at = began_at
        if self._used and began_at - self._noted_at > NOTE_USE_EVERY_S:
            await self._note_use()

    async def _note_use(self) -> None:
        used, self._used = self._used, {}
        self._noted_at = time.monotonic()
        try:
            await self._servers.ask_postgres(lambda pool: note_use(pool, used))
        except ProblemError:  # nobody is refused for it: the next time
            self._used = used | self._used


def _seen(reading: asyncio.Task[None]) -> None:
    if not reading.cancelled():
        reading.exception()  # whoever waits for it gets it; maybe nobody does
