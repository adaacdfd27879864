"""What is used of Mailpit: SMTP at 1025, and at 8025 /api/v1/messages and a page of what came."""

import asyncio
import email
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import UnthreadedController

CAUGHT = []


class Catcher:
    """Keeps every message."""

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        """Take it."""
        subject = email.message_from_bytes(envelope.content)['Subject']
        CAUGHT.append({'Subject': subject, 'To': envelope.rcpt_tos})
        return '250 2.0.0 Ok'


class Page(BaseHTTPRequestHandler):
    """Shows them."""

    def do_GET(self):
        """Answer every path alike."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({'messages': CAUGHT}).encode())

    def log_message(self, *arguments):
        """Say nothing."""


async def main():
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    await UnthreadedController(Catcher(), '0.0.0.0', 1025, loop=loop)._create_server()
    await asyncio.to_thread(ThreadingHTTPServer(('0.0.0.0', 8025), Page).serve_forever)


asyncio.run(main())
