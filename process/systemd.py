"""What systemd is told of a worker, by its notification socket: ready, alive, stopping (sd_notify(3)).

Forty lines instead of a library: the protocol is one datagram, and each library wraps one that
blocks.
"""

import asyncio
import contextlib
import os
import socket

import structlog

log = structlog.get_logger()

FEEDS_PER_WATCHDOG = 3  # two may be late before systemd takes the loop for dead
STOP_MARGIN_S = (
    25  # beyond the drain time: the records of the last results, the close of connections
)


def tell_systemd(*states: str) -> None:
    """Send states such as READY=1 in one datagram. Without systemd, or when its socket does not take them: nothing."""
    address = os.environ.get('NOTIFY_SOCKET', '')
    if not address:
        return
    if address.startswith('@'):  # Linux's abstract namespace
        address = '\0' + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifying:
            notifying.setblocking(False)  # the loop must not wait for systemd
            notifying.sendto('\n'.join(states).encode(), address)
    except OSError as error:
        log.warning('systemd.not_notified', states=states, error=str(error))


def watchdog_s() -> float | None:
    """Return after how long a silence systemd ends this process, in seconds; None when nobody watches it."""
    if os.environ.get('WATCHDOG_PID', str(os.getpid())) != str(
        os.getpid()
    ):  # meant for a process that started us
        return None
    try:
        watchdog_us = int(os.environ.get('WATCHDOG_USEC', ''))
    except ValueError:
        return None
    return watchdog_us / 1e6 if watchdog_us > 0 else None


async def keep_systemd_informed(
    stopping: asyncio.Event,
    drain_s: float,
    status: str,
    finishing: str = 'Finishing what is being sent',
) -> None:
    """Say READY now, STOPPING when the worker stops, and feed the watchdog from the event loop until cancelled.

    A loop that is blocked feeds nothing, and systemd starts the worker again. Its other tasks may
    wait as long as they like: a slow relay, a slow database, a drain.

    Args:
        drain_s: How long running mail may finish. systemd is asked to wait that long, whatever its
            own limit says.
        status: One line for `systemctl status`, and finishing what it says after the stop was asked
            for.
    """
    if not os.environ.get('NOTIFY_SOCKET'):
        return
    tell_systemd('READY=1', f'STATUS={status}')
    silence_s = watchdog_s()
    feed_s = silence_s / FEEDS_PER_WATCHDOG if silence_s else None
    while not stopping.is_set():
        _feed(feed_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(feed_s):
                await stopping.wait()
    within_us = int((drain_s + STOP_MARGIN_S) * 1e6)
    tell_systemd('STOPPING=1', f'EXTEND_TIMEOUT_USEC={within_us}', f'STATUS={finishing}')
    while feed_s:
        _feed(feed_s)
        await asyncio.sleep(feed_s)


def _feed(feed_s: float | None) -> None:
    if feed_s:
        tell_systemd('WATCHDOG=1')
