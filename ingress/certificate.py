"""The certificate for STARTTLS: read again when its files change, without a connection lost."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import structlog

from engine.der import certificate_ends_at

log = structlog.get_logger()

LOOK_EVERY_S = 30.0


class Certificate:
    """A certificate with its key, as they are in their files.

    Attributes:
        context: How STARTTLS is done; connections that are open keep what they have.
        expires_at: Seconds since 1970.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """Read the files.

        Raises:
            OSError, ssl.SSLError, ValueError: one cannot be read, or they do not belong together.
        """
        self._certificate, self._key = certificate, key
        self._seen = self._stamps()
        self.context, self.expires_at = self._read()

    def read_again(self) -> None:
        """Use what the files hold now; what cannot be used is told, and the old one goes on."""
        self._seen = self._stamps()
        try:
            self.context, self.expires_at = self._read()
        except (OSError, ssl.SSLError, ValueError) as error:
            log.error('ingress.certificate_unusable', error=str(error))
        else:
            log.info('ingress.certificate_read', expires_at=round(self.expires_at))

    async def keep_fresh(self) -> None:
        """Look at the files every LOOK_EVERY_S until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._stamps() != self._seen:
                self.read_again()

    def _read(self) -> tuple[ssl.SSLContext, float]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        text = self._certificate.read_text(encoding='ascii', errors='replace')
        begins, ends = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
        first = text[begins : ends + len(ssl.PEM_FOOTER)]
        return context, certificate_ends_at(ssl.PEM_cert_to_DER_cert(first))

    def _stamps(self) -> list[tuple[int, int, int]]:
        """Return what differs when a file was written, or exchanged for another."""
        stamps = []
        for path in (self._certificate, self._key):
            if path is not None:
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    stamps.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return stamps
