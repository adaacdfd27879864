"""Debian's own PostgreSQL and Redis: older than the wheels', and what people run.

`TEST_SERVERS=debian` has the tests run on them. The packages must be installed: postgresql,
redis-server.
"""

from pathlib import Path
from typing import ClassVar

from dev.postgres import Postgres
from dev.stack import Stack
from dev.valkey import Valkey

POSTGRES_PROGRAMS = Path('/usr/lib/postgresql')
REDIS_PROGRAM = Path('/usr/bin/redis-server')


class DebianPostgres(Postgres):
    """The newest PostgreSQL that Debian has installed; 15 on bookworm."""

    name: ClassVar[str] = "Debian's PostgreSQL"
    remedy: ClassVar[str] = 'apt-get install postgresql'
    locale_options: ClassVar[tuple[str, ...]] = ('--locale=C.UTF-8',)

    def programs(self) -> Path:
        """Find the highest version's programs."""
        versions = sorted(
            POSTGRES_PROGRAMS.glob('*/bin/postgres'), key=lambda path: int(path.parts[-3])
        )
        if not versions:
            raise SystemExit(f'no {POSTGRES_PROGRAMS}/*/bin/postgres: {self.remedy}')
        return versions[-1].parent


class DebianRedis(Valkey):
    """Redis 7.0 on bookworm."""

    name: ClassVar[str] = "Debian's Redis"
    remedy: ClassVar[str] = 'apt-get install redis-server'

    def program(self) -> Path:
        """Find the server."""
        if not REDIS_PROGRAM.exists():
            raise SystemExit(f'no {REDIS_PROGRAM}: {self.remedy}')
        return REDIS_PROGRAM


class DebianStack(Stack):
    """The stack with these two in it."""

    postgres_server = DebianPostgres
    valkey_server = DebianRedis
