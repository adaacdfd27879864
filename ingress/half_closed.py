"""A client that closes its side behind its last command gets the replies to what it sent before.

Exim sends QUIT along with the final dot and closes its side; aiosmtpd takes that for the end, and
drops the message while it is being stored.
"""

import asyncio

from aiosmtpd.smtp import SMTP


class HalfClosedSMTP(SMTP):
    """aiosmtpd's connection, which ends when everything is answered."""

    def eof_received(self) -> bool:
        """Note that no more will come. Returns whether replies can still be sent."""
        self._reader.feed_eof()
        return self._tls_protocol is None  # asyncio's TLS has no half of a connection

    def _cb_client_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def line_or_end(separator: bytes = b'\n') -> bytes:
            try:
                return await asyncio.StreamReader.readuntil(reader, separator)
            except asyncio.IncompleteReadError:
                raise asyncio.CancelledError from None  # what aiosmtpd hangs up at, silently

        reader.readuntil = line_or_end  # type: ignore[method-assign, assignment] # aiosmtpd makes it
        super()._cb_client_connected(reader, writer)

    async def read_some(self, most: int) -> bytes:
        """Return what has come, at least a byte.

        Raises:
            CancelledError: nothing will.
        """
        if data := await self._reader.read(most):
            return data
        raise asyncio.CancelledError
