"""`python -m web`: serve until SIGTERM."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

from engine.urls import is_loopback
from logs import configure_logs
from process import memory
from process.supervisor import Supervisor
from settings import Settings, load_settings
from web.access import Guard
from web.api.servers import DEADLINE_S as API_DEADLINE_S
from web.connection import BACKLOG, PageConnection, quieten
from web.mounted import MountedDesk

log = structlog.get_logger()

# Beyond these, 503; idle ones go before, see web.connection.
MOST_CONNECTIONS = 1200
WAITING = 512
ASK_WITHIN_S = 10  # also the next request on the same connection
FINISH_S = int(API_DEADLINE_S) + 1  # what is being answered when the stop comes


class Server(uvicorn.Server):
    """uvicorn's, but the signals are ours.

    Its own handler ends the process by the signal instead of with 0.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so.

        Whoever waits for being accepted waits in the kernel, and is not refused.
        """
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(WAITING)
        memory.settle()
        self.ready.set()


def open_listener(host: str, port: int) -> socket.socket:
    """Listen, before anything else is done.

    Raises:
        SystemExit: somebody else does, or there is no such address here.
    """
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SystemExit(
            f'web: cannot listen on {host}:{port}: {error}. Change WEB_HOST or WEB_PORT'
        ) from error
    # Inherited by connections. Without it the second part of an answer waits 40 ms for the first
    # one to be confirmed.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def check_access(settings: Settings) -> None:
    """Refuse to show everybody what goes on here.

    Raises:
        SystemExit: others can reach the address, and no token keeps them out.
    """
    if not is_loopback(settings.web_host) and settings.web_token is None:
        raise SystemExit(
            f'web: WEB_HOST={settings.web_host} can be reached from other machines: '
            'set WEB_TOKEN, or listen on 127.0.0.1 behind a reverse proxy that asks who it is '
            '(docs/deployment.md)'
        )


def uvicorn_config(app: Guard) -> uvicorn.Config:
    """Return how uvicorn serves."""
    return uvicorn.Config(
        app, http=PageConnection, log_config=None, log_level='warning', access_log=False,
        lifespan='off', ws='none', proxy_headers=False, server_header=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=ASK_WITHIN_S,
        timeout_graceful_shutdown=FINISH_S, backlog=BACKLOG,
    )  # fmt: skip


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then let answers that are under way finish."""
    stopping = asyncio.Event()
    quieten(asyncio.get_running_loop())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    desk = MountedDesk(settings, loopback_only=is_loopback(settings.web_host))
    server = Server(uvicorn_config(desk.app))
    serving = asyncio.create_task(server.serve([listener]))
    await server.ready.wait()
    host = f'[{settings.web_host}]' if ':' in settings.web_host else settings.web_host
    place = f'http://{host}:{listener.getsockname()[1]}'
    log.info('web.started', place=place, token_wanted=settings.web_token is not None)
    informing = asyncio.create_task(
        Supervisor(settings.health_file).keep_informed(
            stopping, 0, f'Serving {place}', 'Finishing what is asked'
        )
    )
    await stopping.wait()
    server.should_exit = True
    await desk.end_streams()
    await serving
    informing.cancel()
    await asyncio.gather(desk.close(), informing, return_exceptions=True)
    log.info('web.stopped')


def main() -> int:
    """Read the settings and serve. Returns the exit status."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    settings.start_observing('email-web', socket.gethostname())
    check_access(settings)
    uvloop.run(serve(settings, open_listener(settings.web_host, settings.web_port)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
