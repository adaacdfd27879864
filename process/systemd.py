"""Notifications to systemd (sd_notify(3)).

Thirty lines instead of a library: the protocol is one datagram, and each library wraps one that
blocks.
"""

import os
import socket

import structlog

log = structlog.get_logger()


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
