"""Run a command against Debian's own PostgreSQL and Redis.

They are older than the wheels', and what people run.

    python -m dev.debian COMMAND [ARGUMENT...]

Starts both on free loopback ports, sets TEST_DATABASE_URL and TEST_ARQ_REDIS_URL, runs the command,
stops them, and ends with the command's exit status. The packages must be installed: postgresql,
redis-server.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from dev.postgres import Postgres, PostgresPasswords
from dev.postgres_home import remove_data
from dev.valkey import Valkey
from dev.watchdog import Watchdog

POSTGRES_PROGRAMS = Path('/usr/lib/postgresql')
REDIS_PROGRAM = Path('/usr/bin/redis-server')
LOCAL_PASSWORD = 'loopback'  # noqa: S105 - servers of one command, on loopback


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


def main() -> int:
    """Run the command in sys.argv. Returns its exit status."""
    directory = Path(tempfile.mkdtemp(prefix='mail-debian-'))
    watchdog = Watchdog()
    watchdog.remove_at_death(directory)
    postgres = DebianPostgres(
        directory / 'postgres', watchdog, PostgresPasswords(LOCAL_PASSWORD, LOCAL_PASSWORD)
    )
    redis = DebianRedis(directory / 'redis', watchdog, LOCAL_PASSWORD)
    try:
        postgres.start()
        redis.start()
        servers = {'TEST_DATABASE_URL': postgres.superuser_url, 'TEST_ARQ_REDIS_URL': redis.url(1)}
        print(
            f'PostgreSQL {postgres.programs().parent.name} and {redis.program()} are up',
            file=sys.stderr,
        )
        return subprocess.run(sys.argv[1:], env=os.environ | servers, check=False).returncode
    finally:
        redis.stop()
        postgres.stop()
        watchdog.close()
        remove_data(directory / 'postgres')
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main())
