"""A worker's notifications to systemd: ready, alive, stopping (sd_notify(3)).

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
# Beyond the drain time: the records of the last results, the close of connections.
STOP_MARGIN_S = 25


def notify_systemd(*states: str) -> None:
    """Send states such as READY=1 in one datagram; do nothing without systemd."""
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
    """Return the seconds of silence after which systemd ends this process; None for no limit."""
    own_pid = str(os.getpid())
    if os.environ.get('WATCHDOG_PID', own_pid) != own_pid:  # meant for a process that started us
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
    """Say READY now and STOPPING when the worker stops; feed the watchdog until cancelled.

    It is fed from the event loop. A loop that is blocked feeds nothing, and systemd starts the
    worker again. Its other tasks may wait as long as they like: a slow relay, a slow database, a
    drain.

    Args:
        drain_s: How long running mail may finish. systemd is asked to wait that long, whatever its
            own limit says.
        status: One line for `systemctl status`, and finishing what it says after the stop was asked
            for.
    """
    if not os.environ.get('NOTIFY_SOCKET'):
        return
    notify_systemd('READY=1', f'STATUS={status}')
    silence_s = watchdog_s()
    feed_s = silence_s / FEEDS_PER_WATCHDOG if silence_s else None
    while not stopping.is_set():
        _feed(feed_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(feed_s):
                await stopping.wait()
    within_us = int((drain_s + STOP_MARGIN_S) * 1e6)
    notify_systemd('STOPPING=1', f'EXTEND_TIMEOUT_USEC={within_us}', f'STATUS={finishing}')
    while feed_s:
        _feed(feed_s)
        await asyncio.sleep(feed_s)


def _feed(feed_s: float | None) -> None:
    if feed_s:
        notify_systemd('WATCHDOG=1')
