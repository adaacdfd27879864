"""aiosmtpd that takes every message and keeps none: `python -m bench.bare_smtp PORT`."""

import asyncio
import logging
import sys

import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session

BACKLOG = 512


class Nowhere:
    """Takes everything."""

    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """Say that it was kept."""
        return '250 OK'


async def _serve(port: int) -> None:
    logging.getLogger('mail.log').setLevel(logging.CRITICAL)
    loop, handler = asyncio.get_running_loop(), Nowhere()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname='bare', enable_SMTPUTF8=True, loop=loop),
        '127.0.0.1', port, backlog=BACKLOG,
    )  # fmt: skip
    await server.serve_forever()


if __name__ == '__main__':
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
