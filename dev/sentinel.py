"""Valkey servers that replicate, and the sentinels that watch them, for tests of failover."""

from pathlib import Path
from typing import ClassVar

import redis

from dev.processes import Command
from dev.server import Server
from dev.valkey import PROBE_TIMEOUT_S, Valkey, valkey_program
from dev.watchdog import Watchdog

MASTER = 'mymaster'
QUORUM = 2
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
daemonize no
sentinel sentinel-pass {password}
sentinel monitor {master} 127.0.0.1 {master_port} {quorum}
sentinel auth-pass {master} {master_password}
sentinel down-after-milliseconds {master} 500
sentinel failover-timeout {master} 3000
"""


class Replicated(Valkey):
    """A Valkey that can be a master or a replica.

    Args:
        master: Whom it follows from its first start on; None for a master.
    """

    def __init__(
        self, directory: Path, watchdog: Watchdog, password: str, master: Valkey | None = None
    ) -> None:
        super().__init__(directory, watchdog, password)
        self._master = master

    def command(self) -> Command:
        """As Valkey's; it knows the password of the others."""
        command = super().command()
        with Path(command.argv[-1]).open('a') as configuration:
            configuration.write(f'masterauth {self.password}\nrepl-diskless-sync-delay 0\n')
            if self._master is not None:
                configuration.write(f'replicaof 127.0.0.1 {self._master.port}\n')
        return command


class Sentinel(Server):
    """One of those that watch a master and choose another."""

    name: ClassVar[str] = 'Sentinel'
    remedy: ClassVar[str] = 'look at the log'
    not_yet = (OSError, redis.RedisError)

    def __init__(self, directory: Path, watchdog: Watchdog, password: str, master: Valkey) -> None:
        super().__init__(directory, watchdog)
        self.password = password
        self._master = master

    def command(self) -> Command:
        """`valkey-server --sentinel`, which keeps what it learns in its configuration file."""
        configuration = self.directory / 'sentinel.conf'
        configuration.touch(mode=0o600)
        configuration.write_text(
            CONFIGURATION.format(
                port=self.port,
                password=self.password,
                directory=self.directory,
                master=MASTER,
                master_port=self._master.port,
                master_password=self._master.password,
                quorum=QUORUM,
            )
        )
        return Command(
            [str(valkey_program()), str(configuration), '--sentinel'], cwd=self.directory
        )

    def client(self) -> redis.Redis:
        """Return a client that has to be closed."""
        return redis.Redis(
            port=self.port,
            password=self.password,
            socket_timeout=PROBE_TIMEOUT_S,
            socket_connect_timeout=PROBE_TIMEOUT_S,
        )

    def probe(self) -> None:
        """Ask for the master."""
        with self.client() as client:
            client.sentinel_master(MASTER)

    def sees(self) -> tuple[int, int, int]:
        """Return the port of the master.

        Also how many replicas and how many other sentinels are known.
        """
        with self.client() as client:
            state = client.sentinel_master(MASTER)
        return state['port'], state['num-slaves'], state['num-other-sentinels']
