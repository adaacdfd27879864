"""A relay for the machine: it takes every message on 127.0.0.1:25025 and keeps each as a file.

Its arguments are the directory and the password of who submits. It runs on the release's own
Python, which has aiosmtpd.
"""

import asyncio
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult


class Sink:
    """Files are named by recipient and number."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.number = directory, 0

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        self.number += 1
        kept = self.directory / f'{envelope.rcpt_tos[0]} {self.number}'
        kept.write_bytes(envelope.content)
        return '250 kept'


async def main(directory: str, password: str) -> None:
    sink = Sink(Path(directory))
    loop = asyncio.get_running_loop()

    def is_known(server, session, envelope, mechanism, login):
        return AuthResult(success=login.password == password.encode())

    def session():
        return SMTP(
            sink, loop=loop, authenticator=is_known, auth_required=True, auth_require_tls=False
        )

    server = await loop.create_server(session, '127.0.0.1', 25025)
    await server.serve_forever()


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
