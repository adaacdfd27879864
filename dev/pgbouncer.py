"""pgbouncer, as Debian has it: 1.18 on bookworm, which knows no prepared statements.

For the tests that need the real one; it is not part of the stack.
"""

import asyncio
import os
import shutil
from pathlib import Path
from typing import ClassVar, Literal

import asyncpg

from dev.postgres_home import data_directory, server_identity
from dev.processes import Command
from dev.server import Server
from dev.watchdog import Watchdog

PROGRAM = Path('/usr/sbin/pgbouncer')
PROBE_TIMEOUT_S = 5.0
PoolMode = Literal['transaction', 'session', 'statement']
CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={postgres_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {pool_mode}
default_pool_size = {sessions}
ignore_startup_parameters = {ignored}
server_round_robin = 1
"""


class PgBouncer(Server):
    """A pooler in front of a PostgreSQL server.

    Args:
        users: Passwords by role.
        ignored: Parameters that it takes and forgets, comma separated; it refuses all others.
        sessions: At most so many with the server, for each database and role.
    """

    name: ClassVar[str] = 'pgbouncer'
    remedy: ClassVar[str] = 'apt-get install pgbouncer'
    not_yet = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

    def __init__(
        self,
        directory: Path,
        watchdog: Watchdog,
        postgres_port: int,
        users: dict[str, str],
        *,
        pool_mode: PoolMode = 'transaction',
        ignored: str = '',
        sessions: int = 4,
    ) -> None:
        super().__init__(directory, watchdog)
        self._postgres_port = postgres_port
        self._users = users
        self._pool_mode = pool_mode
        self._ignored = ignored
        self._sessions = sessions

    def prepare(self) -> None:
        """Make the directory, readable for whom it runs as."""
        if not PROGRAM.exists():
            raise SystemExit(f'no {PROGRAM}: {self.remedy}')
        self._identity = server_identity()  # it refuses to run as root
        self._home = data_directory(self.directory, self._identity)
        self._write(
            'users.txt',
            ''.join(f'"{role}" "{password}"\n' for role, password in self._users.items()),
        )

    def _write(self, name: str, content: str) -> Path:
        path = self._home / name
        path.touch(mode=0o600)
        path.write_text(content)
        if self._identity is not None:
            os.chown(path, self._identity.uid, self._identity.gid)
        return path

    def command(self) -> Command:
        """`pgbouncer` with a configuration file, as the unprivileged user when we are root."""
        configuration = self._write(
            'pgbouncer.ini',
            CONFIGURATION.format(
                postgres_port=self._postgres_port,
                port=self.port,
                users=self._home / 'users.txt',
                pool_mode=self._pool_mode,
                sessions=self._sessions,
                ignored=self._ignored,
            ),
        )
        return Command([str(PROGRAM), str(configuration)], identity=self._identity)

    def probe(self) -> None:
        """Ask for a connection to a database that PostgreSQL always has."""
        asyncio.run(asyncio.wait_for(self._probe(), PROBE_TIMEOUT_S))

    async def _probe(self) -> None:
        role, password = next(iter(self._users.items()))
        conn = await asyncpg.connect(
            host='127.0.0.1',
            port=self.port,
            user=role,
            password=password,
            database='postgres',
            ssl=False,
        )
        await conn.close()

    def discard(self) -> None:
        """Stop it and remove its files."""
        super().discard()
        shutil.rmtree(self._home, ignore_errors=True)
