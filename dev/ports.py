"""Which port a server of the stack should listen on."""

import random
import socket

# Below Linux's and macOS's ephemeral ranges (32768 and 49152 up) on purpose. A server that is down
# for a while would otherwise find its port taken by some client's outgoing connection, and a client
# that keeps dialling a dead loopback port of that range now and then connects to itself.
FIRST_PORT = 15_000
LAST_PORT = 29_999
ATTEMPTS = 200


def free_port() -> int:
    """Find a TCP port on 127.0.0.1 that nothing listens on right now.

    Another process may still take it before the server binds it, so callers retry with a new one.

    Returns:
        A port number.
    """
    for _ in range(ATTEMPTS):
        port = random.randint(FIRST_PORT, LAST_PORT)
        if can_bind(port):
            return port
    with socket.socket() as anywhere:
        anywhere.bind(('127.0.0.1', 0))
        return int(anywhere.getsockname()[1])


def can_bind(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 right now."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True
