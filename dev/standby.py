"""A PostgreSQL server and a standby of it, for tests of failover."""

from pathlib import Path
from typing import ClassVar

import asyncpg

from dev.postgres import DATABASE, PROBE_TIMEOUT_S, SUPERUSER, Postgres
from dev.processes import Command

BACKUP_DEADLINE_S = 120.0
# "replication" in pg_hba.conf is a word, not a database: initdb's file has it.
STREAM_OPTIONS = ('--wal-method=stream', '--checkpoint=fast', '--write-recovery-conf', '--no-sync')


class Standby(Postgres):
    """Follows a primary until it is promoted."""

    name: ClassVar[str] = 'the standby of PostgreSQL'
    primary: Postgres

    def follow(self, primary: Postgres) -> 'Standby':
        """Say whom it copies at its first start. Returns self."""
        self.primary = primary
        return self

    def _initdb(self, cluster: Path) -> None:
        source = (
            f'host=127.0.0.1 port={self.primary.port} user={SUPERUSER} '
            f'password={self.passwords.superuser}'
        )
        argv = [
            str(self._programs / 'pg_basebackup'),
            f'--pgdata={cluster}',
            f'--dbname={source}',
            *STREAM_OPTIONS,
        ]
        self.run_to_end(Command(argv, identity=self._identity), BACKUP_DEADLINE_S)

    async def _probe(self) -> None:
        """Connect; nothing can be made here."""
        connection = await asyncpg.connect(self.superuser_url, ssl=False, timeout=PROBE_TIMEOUT_S)
        await connection.close()

    @staticmethod
    def both(
        primary: Postgres, standby: Postgres, options: str = 'target_session_attrs=read-write'
    ) -> str:
        """Return one address of the two."""
        hosts = f'127.0.0.1:{primary.port},127.0.0.1:{standby.port}'
        return (
            f'postgresql://{SUPERUSER}:{primary.passwords.superuser}@{hosts}/{DATABASE}?{options}'
        )
