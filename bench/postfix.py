"""Debian's Postfix, beside the ingress: it takes messages, and holds them on disk.

With a configuration, a queue and a port of its own, so that it touches no mail of this machine's.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.relay import RelayFailed
from dev.ports import free_port
from dev.processes import Command, last_lines, spawn
from dev.watchdog import Watchdog

MASTER_PROGRAM = '/usr/lib/postfix/sbin/master'
OWNER = 'postfix'  # the user that Debian's package makes
STOP_DEADLINE_S = 10.0

# What it is asked for is what the ingress does: the message is safe on disk when 250 is said, and
# nothing more happens to it, as no worker runs beside the ingress. All else is as it comes.
MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/maillog
maillog_file_prefixes = {directory}
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_client_restrictions = check_client_access static:hold
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
retry unix - - n - - error
error unix - - n - - error
smtp unix - - n - - smtp
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running one.

    Attributes:
        pid: Of its master.
        hold: Where the messages are that it holds.
    """

    port: int
    pid: int
    hold: Path

    def kept(self) -> int:
        """Return how many messages it holds."""
        return len([*self.hold.iterdir()])


def find_postfix() -> str | None:
    """Return the command, where Debian's package is installed and may be used; it needs root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        pwd.getpwnam(OWNER)
        return shutil.which('postfix', path=f'{os.environ.get("PATH", "")}:/usr/sbin')
    return None


@contextlib.contextmanager
def running_postfix(
    parent: Path,
    watchdog: Watchdog,
    settings: Mapping[str, str] = MappingProxyType({}),
    services: Sequence[str] = (),
) -> Iterator[Postfix]:
    """Start it on a free port; stop it at the end, and remove what it kept.

    Args:
        settings: Of main.cf, instead of those above.
        services: Of master.cf, beside those above.
    Raises:
        RelayFailed: it is not installed, or ends at once.
    """
    program = find_postfix()
    if program is None:
        raise RelayFailed('Postfix is not installed (--install-sink), or this is not root')
    directory, port = parent / 'postfix', free_port()
    for name in ('config', 'queue', 'data'):
        (directory / name).mkdir(parents=True)
    shutil.chown(directory / 'data', OWNER)
    more = ''.join(f'{name} = {value}\n' for name, value in settings.items())
    main = MAIN.format(directory=directory) + more  # what comes last counts
    (directory / 'config/main.cf').write_text(main, encoding='utf-8')
    master = '\n'.join([MASTER.format(port=port), *services, ''])
    (directory / 'config/master.cf').write_text(master, encoding='utf-8')
    environment = {'MAIL_CONFIG': str(directory / 'config')}
    # It makes the queue's folders.
    subprocess.run([program, 'check'], env=os.environ | environment, check=True)
    # Not by `postfix start-fg`, whose shell ends and leaves it behind. It ends its children itself.
    command = Command([MASTER_PROGRAM, '-s'], environment=environment, death_signal=signal.SIGTERM)
    process = spawn(command, parent / 'postfix.out', watchdog)
    try:
        yield Postfix(port, process.pid, directory / 'queue/hold')
    except BaseException as error:
        if process.poll() is not None:
            said = last_lines((parent / 'postfix.out').read_text())
            raise RelayFailed(f'Postfix has ended: {said}') from error
        raise
    finally:
        process.terminate()
        process.wait(STOP_DEADLINE_S)
        watchdog.forget(process.pid)
        shutil.rmtree(directory)
