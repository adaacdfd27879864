"""The embedded stack: PostgreSQL, Valkey, MongoDB and the SMTP inbox, as one thing.

All listen on free loopback ports.

    python -m dev.stack --env-file PATH [--data-dir DIR] [--mongo mongod|secantusdb]

starts the servers, writes their addresses to PATH once every one answers, prints `ready`, and stops
them on SIGTERM or SIGINT. With --data-dir the data stays, and the next start has the same ports
(where they are free) and passwords. From Python:

    with Stack() as stack:      # or `async with`
        stack.env               # what the .env file holds
        stack.valkey.kill()     # each server: start, stop, kill, freeze, thaw, pid, port
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NoReturn, Self

from dev import env_file
from dev.inbox_server import InboxLogin, InboxServer
from dev.mongo import Engine, Mongo
from dev.postgres import DATABASE, ROLE, Postgres, PostgresPasswords
from dev.postgres_home import remove_data
from dev.server import Server, ServerFailed
from dev.stack_state import DirectoryInUse, load_state, lock_directory, save_state
from dev.valkey import Valkey
from dev.watchdog import Watchdog

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MONGO_DATABASE = 'mail'
CACHE_DATABASE = 0
ARQ_DATABASE = 1
LIVENESS_INTERVAL_S = 1.0


class Stack:
    """The four servers. Not started by the constructor.

    A stopped one is not started again, make a new one.

    Attributes:
        data_dir: Where everything is kept.
        postgres, valkey, mongo, inbox: The servers, from `start` on; see `dev.server.Server`.
    """

    postgres_server: ClassVar[type[Postgres]] = Postgres
    valkey_server: ClassVar[type[Valkey]] = Valkey

    postgres: Postgres
    valkey: Valkey
    mongo: Mongo
    inbox: InboxServer

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        mongo_engine: Engine | None = None,
        durable_inbox: bool = False,
    ) -> None:
        """Choose where the data lives.

        Args:
            data_dir: A directory, made when absent, never removed; None for a temporary one.
            mongo_engine: None for a real mongod where one runs.
            durable_inbox: fsync before every 250.
        """
        self._is_temporary = data_dir is None
        self._wanted_dir = data_dir
        self._mongo_engine = mongo_engine
        self._durable_inbox = durable_inbox
        self._watchdog: Watchdog | None = None
        self._lock_fd = -1

    @property
    def servers(self) -> list[Server]:
        """All four."""
        return [self.postgres, self.valkey, self.mongo, self.inbox]

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that point an application at this stack."""
        login = self.inbox.login
        return {
            'ARQ_REDIS_URL': self.valkey.url(ARQ_DATABASE),
            'REDIS_URL': self.valkey.url(CACHE_DATABASE),
            # So that one left in the environment or a .env cannot win.
            'DATABASE_URL': self.postgres.url,
            'DB_HOST': '127.0.0.1',
            'DB_PORT': str(self.postgres.port),
            'DB_USER': ROLE,
            'DB_PASSWORD': self.postgres.passwords.role,
            'DB_NAME': DATABASE,
            'MONGODB_URL': self.mongo.url,
            'MONGODB_DATABASE': MONGO_DATABASE,
            'SMTP_HOST': '127.0.0.1',
            'SMTP_PORT': str(self.inbox.port),
            'SMTP_USER': login.user,
            'SMTP_PASSWORD': login.password,
            'SMTP_FROM_EMAIL': 'noreply@example.com',
            'SMTP_FROM_NAME': 'Example Application',
            'SMTP_USE_TLS': 'true',
            'SMTP_CA_FILE': str(self.inbox.certificate),
            'SMTP_BACKUP_HOST': '127.0.0.1',
            'SMTP_BACKUP_PORT': str(self.inbox.backup_port),
            'SMTP_BACKUP_USER': login.backup_user,
            'SMTP_BACKUP_PASSWORD': login.backup_password,
            'SMTP_BACKUP_USE_TLS': 'true',
            'INBOX_DIR': str(self.inbox.directory),
        }

    def start(self) -> None:
        """Start all servers side by side and return when every one answers.

        Raises:
            ServerFailed: one of them does not; the others have been stopped again.
            DirectoryInUse: another stack runs on the data directory.
        """
        self.data_dir = self._make_directory()
        self._lock_fd = lock_directory(self.data_dir)
        self._watchdog = Watchdog(inherited_fd=self._lock_fd)
        try:
            if self._is_temporary:
                self._watchdog.remove_at_death(self.data_dir)
            self._build_servers(self._watchdog)
            self._in_parallel('start')
            if self._is_temporary:
                self._watchdog.remove_at_death(self.postgres.data_directory)
            self._remember()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all servers, remove what is temporary. May be called twice."""
        if self._watchdog is None:
            return
        try:
            if hasattr(self, 'inbox'):
                self._in_parallel('discard' if self._is_temporary else 'stop')
        finally:
            self._watchdog.close()
            self._watchdog = None
            if self._is_temporary:
                remove_data(self.data_dir / 'postgres')
                shutil.rmtree(self.data_dir, ignore_errors=True)
            os.close(self._lock_fd)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _make_directory(self) -> Path:
        if self._wanted_dir is None:
            directory = Path(tempfile.mkdtemp(prefix='mail-stack-')).resolve()
            directory.chmod(0o711)  # as root, PostgreSQL's user must pass through
            return directory
        directory = self._wanted_dir.absolute()
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(0o711)
        return directory.resolve()

    def _build_servers(self, watchdog: Watchdog) -> None:
        self._state = state = load_state(self.data_dir)
        passwords = PostgresPasswords(state.postgres_password, state.postgres_superuser_password)
        login = InboxLogin('primary', state.smtp_password, 'backup', state.smtp_backup_password)
        self.postgres = self.postgres_server(
            self.data_dir / 'postgres', watchdog, passwords, state.postgres_port
        )
        self.valkey = self.valkey_server(
            self.data_dir / 'valkey', watchdog, state.valkey_password, state.valkey_port
        )
        engine = self._mongo_engine or state.known_engine
        self.mongo = Mongo(self.data_dir / 'mongo', watchdog, state.mongo_port, engine)
        self.inbox = InboxServer(
            self.data_dir / 'inbox',
            watchdog,
            login,
            state.smtp_port,
            state.smtp_backup_port,
            durable=self._durable_inbox,
        )
        save_state(self.data_dir, state)  # before initdb: its cluster is bound to these passwords

    def _remember(self) -> None:
        state = self._state
        state.postgres_port, state.valkey_port, state.mongo_port = (
            server.port for server in (self.postgres, self.valkey, self.mongo)
        )
        state.smtp_port, state.smtp_backup_port = self.inbox.port, self.inbox.backup_port
        state.mongo_engine = self.mongo.engine
        save_state(self.data_dir, state)

    def _in_parallel(self, method: str) -> None:
        """Call a method of all servers, each in a thread.

        If one fails, or we are interrupted, end early and raise.
        """
        with ThreadPoolExecutor(len(self.servers), thread_name_prefix='dev-stack') as pool:
            calls = {pool.submit(getattr(server, method)): server for server in self.servers}
            try:
                for call in calls:
                    call.result()
            except BaseException:
                for server in self.servers:
                    server.cancel_start()
                raise


def describe(stack: Stack, path: Path) -> str:
    """Say where things are, for people."""
    return '\n'.join(
        [
            f'PostgreSQL  {stack.postgres.url}',
            f'Valkey      {stack.valkey.url(ARQ_DATABASE)}',
            f'MongoDB     {stack.mongo.url}  ({stack.mongo.engine})',
            (
                f'SMTP        127.0.0.1:{stack.inbox.port} (primary), '
                f'127.0.0.1:{stack.inbox.backup_port} (backup)'
            ),
            f'mail        {stack.inbox.directory}',
            f"data, logs  {stack.data_dir} (PostgreSQL's data: {stack.postgres.data_directory})",
            f'variables   {path}',
            'Ctrl-C stops the stack.',
        ]
    )


def _stop_on_signal(_signum: int, _frame: object) -> NoReturn:
    for stop_signal in STOP_SIGNALS:
        signal.signal(
            stop_signal, signal.SIG_IGN
        )  # one is enough: the stopping itself shall not be cut
    raise SystemExit(0)


def _report_deaths(stack: Stack) -> NoReturn:
    """Stay in the foreground; say so once when a server ends by itself."""
    reported: set[Server] = set()
    while True:
        threading.Event().wait(LIVENESS_INTERVAL_S)
        for server in stack.servers:
            if not server.is_running and server not in reported:
                reported.add(server)
                print(server.failure('has ended; the others go on'), file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the stack in the foreground; the exit status is 1 when it could not start."""
    parser = argparse.ArgumentParser(
        prog='python -m dev.stack', description='The embedded stack, for development.'
    )
    parser.add_argument(
        '--env-file', type=Path, required=True, help='where the variables are written'
    )
    parser.add_argument(
        '--data-dir', type=Path, help='keeps the data; default: a temporary directory'
    )
    parser.add_argument(
        '--mongo', choices=['mongod', 'secantusdb'], help='default: mongod where it runs'
    )
    options = parser.parse_args(argv)
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, _stop_on_signal)
    try:
        env_file.check_may_write(options.env_file)
        with Stack(options.data_dir, mongo_engine=options.mongo) as stack:
            env_file.write(options.env_file, stack.env)
            print(describe(stack, options.env_file), file=sys.stderr, flush=True)
            print('ready', flush=True)
            _report_deaths(stack)
    except (ServerFailed, DirectoryInUse, env_file.NotOurs, OSError) as error:
        print(f'dev.stack: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
