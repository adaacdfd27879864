"""Tests against servers that only Debian has.

`.ci/run` installs and runs them, one that is missing fails the run.
"""

import asyncio
from urllib.parse import urlsplit, urlunsplit

import pytest

from dev.pgbouncer import PgBouncer
from dev.watchdog import Watchdog


@pytest.fixture
async def start_pooler(stack, database, tmp_path):
    """Start a pgbouncer before the stack's PostgreSQL; `dsn` is the test's database through it."""
    watchdog = Watchdog()
    started = []
    place = urlsplit(database.dsn)

    async def start(**options):
        tmp_path.chmod(0o711)
        users = {place.username: place.password}
        pooler = PgBouncer(
            tmp_path / f'pgbouncer-{len(started)}', watchdog, place.port, users, **options
        )
        started.append(pooler)
        await asyncio.to_thread(pooler.start)
        netloc = f'{place.username}:{place.password}@127.0.0.1:{pooler.port}'
        pooler.dsn = urlunsplit(place._replace(netloc=netloc))
        return pooler

    yield start
    for pooler in started:
        await asyncio.to_thread(pooler.discard)
    watchdog.close()
