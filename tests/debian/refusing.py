"""A server that refuses every recipient, each domain's in its own words."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator

# What it says to RCPT, and what is to come of the report that follows.
REFUSALS = {
    'unknown.test': ('550 5.1.1 no such user here', 'bounce', '5.1.1'),
    'full.test': ('552 5.2.2 mailbox is full', 'soft-bounce', '5.2.2'),
    'plain.test': ('550 User unknown', 'bounce', '5.0.0'),
    'policy.test': ('554-5.7.1 We do not\r\n554 5.7.1 like you', 'soft-bounce', '5.7.1'),
}


class _Refuse(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b'220 mx.test ESMTP\r\n')
        for line in self.rfile:
            domain = line.decode().strip().partition('>')[0].rpartition('@')[2]
            is_rcpt = line.upper().startswith(b'RCPT')
            self.wfile.write(f'{REFUSALS[domain][0] if is_rcpt else "250 ok"}\r\n'.encode())
            if line.upper().startswith(b'QUIT'):
                break


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


@contextlib.contextmanager
def refusing_everybody() -> Iterator[int]:
    """Run it in a thread; its port."""
    with _Server(('127.0.0.1', 0), _Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
