"""Who watches over this process, and what it hears: starting, ready, alive, stopping.

systemd hears it by its own protocol. A container's health check reads it from a file, by
`deploy/email-worker-health`: no port is opened, no token is wanted, no Python is started.
"""

import asyncio
import contextlib
from pathlib import Path

import structlog

from process.systemd import notify_systemd, watchdog_s

log = structlog.get_logger()

FEEDS_PER_WATCHDOG = 3  # two may be late before the loop is taken for dead
# Beyond the drain time: the records of the last results, the close of connections.
STOP_MARGIN_S = 25
# deploy/email-worker-health takes the loop for dead after 60 s, as the worker's unit does.
HEALTH_FEED_S = 5.0


class Supervisor:
    """What is told of one process, and to whom.

    It is told from the event loop. A loop that is blocked tells nothing, and the process is started
    again. Its other tasks may wait as long as they like: a slow relay, a slow database, a drain.
    """

    def __init__(self, health_file: Path | None = None) -> None:
        """Say that the process is starting.

        Args:
            health_file: Has the state in its first line, what `systemctl status` would say in its
                second one, and the time of both as its own. None: there is no such file.
        """
        self._health_file = health_file
        self._lines = ['starting', '']
        self._is_writable = True
        self._write()

    def tell(self, *states: str) -> None:
        """Tell states of sd_notify(3), such as READY=1 or STATUS=Waiting for PostgreSQL."""
        notify_systemd(*states)
        for state in states:
            match state.split('=', 1):
                case ['READY', _]:
                    self._lines[0] = 'ready'
                case ['STOPPING', _]:
                    self._lines[0] = 'stopping'
                case ['STATUS', status]:
                    self._lines[1] = status
        self._write()

    async def keep_informed(
        self,
        stopping: asyncio.Event,
        drain_s: float,
        status: str,
        finishing: str = 'Finishing what is being sent',
    ) -> None:
        """Say READY now and STOPPING when the process stops; say that it lives until cancelled.

        Args:
            drain_s: How long running mail may finish. systemd is asked to wait that long, whatever
                its own limit says.
            status: One line for people, and finishing what it says after the stop was asked for.
        """
        self.tell('READY=1', f'STATUS={status}')
        feed_s = self._feed_s()
        while not stopping.is_set():
            self._feed(feed_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(feed_s):
                    await stopping.wait()
        within_us = int((drain_s + STOP_MARGIN_S) * 1e6)
        self.tell('STOPPING=1', f'EXTEND_TIMEOUT_USEC={within_us}', f'STATUS={finishing}')
        while feed_s:
            self._feed(feed_s)
            await asyncio.sleep(feed_s)

    def _feed_s(self) -> float | None:
        silence_s = watchdog_s()
        wanted = [silence_s / FEEDS_PER_WATCHDOG] if silence_s else []
        if self._health_file is not None:
            wanted.append(HEALTH_FEED_S)
        return min(wanted, default=None)

    def _feed(self, feed_s: float | None) -> None:
        if feed_s:
            self.tell('WATCHDOG=1')

    def _write(self) -> None:
        if self._health_file is None:
            return
        fresh = self._health_file.with_name(f'{self._health_file.name}.new')
        try:  # in one step: nobody reads half of it
            fresh.write_text('\n'.join([*self._lines, '']), encoding='utf-8')
            fresh.replace(self._health_file)
        except OSError as error:
            if self._is_writable:
                log.error('health_file.not_written', file=str(self._health_file), error=str(error))
            self._is_writable = False
        else:
            self._is_writable = True
