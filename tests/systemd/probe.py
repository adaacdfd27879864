"""Tries what a unit's sandbox is there to refuse, from inside; prints what it could, as JSON."""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NAMESPACE = 0x10000000  # CLONE_NEWUSER


def write(directory: str) -> Callable[[], None]:
    def attempt() -> None:
        (Path(directory) / 'probe').write_text('x')

    return attempt


def read(path: str) -> Callable[[], object]:
    return lambda: Path(path).read_bytes()


def look(path: str) -> Callable[[], None]:
    def attempt() -> None:
        if not list(Path(path).iterdir()):
            raise PermissionError

    return attempt


def call(name: str, *arguments: object) -> Callable[[], None]:
    def attempt() -> None:
        if getattr(LIBC, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)

    return attempt


def see_others() -> None:
    own = str(os.getpid())
    if not [path for path in Path('/proc').iterdir() if path.name.isdigit() and path.name != own]:
        raise PermissionError


def run_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def open_socket(family: socket.AddressFamily, kind: socket.SocketKind) -> Callable[[], None]:
    return lambda: socket.socket(family, kind).close()


ATTEMPTS: dict[str, Callable[[], object]] = {
    'write its home': write(os.environ['HOME']),
    'write /tmp': write('/tmp'),
    'connect by TCP': open_socket(socket.AF_INET, socket.SOCK_STREAM),
    'write its program': write('/opt/email-worker/current'),
    'write settings': write('/etc/email-worker'),
    'write /etc': write('/etc'),
    'write /usr/local/bin': write('/usr/local/bin'),
    'write /var/lib': write('/var/lib'),
    'write /run': write('/run'),
    'write /dev/shm': write('/dev/shm'),
    'read shadow': read('/etc/shadow'),
    'read the secrets at rest': look('/etc/credstore'),
    'read settings of others': read('/etc/email-worker/operator.env'),
    'read root': look('/root'),
    'read home': look('/home'),
    'read the log of the kernel': read('/proc/kmsg'),
    'write the kernel': lambda: Path('/proc/sys/kernel/domainname').write_text('x'),
    'see other processes': see_others,
    'signal PID 1': lambda: os.kill(1, signal.SIGCONT),
    'become root': lambda: os.setuid(0),
    'make namespaces': call('unshare', NEW_NAMESPACE),
    'mount': call('mount', b'none', b'/tmp', b'tmpfs', 0, None),
    'set the clock': lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    'set the hostname': lambda: socket.sethostname('probe'),
    'run written memory': run_memory,
    'speak netlink': open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    'listen to packets': open_socket(socket.AF_PACKET, socket.SOCK_RAW),
}


def succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


if __name__ == '__main__':
    done = [name for name, attempt in ATTEMPTS.items() if succeeds(attempt)]
    json.dump(done, sys.stdout)
