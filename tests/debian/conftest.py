"""Tests against servers that only Debian has.

`.ci/run` installs and runs them, one that is missing fails the run.
"""

import asyncio
import contextlib
from urllib.parse import urlsplit, urlunsplit

import pytest

from dev.pgbouncer import PgBouncer
from dev.watchdog import Watchdog
from tests.debian.exim import running_exim
from tests.debian.guest import open_directory
from tests.debian.mail_servers import Outside, free_ports
from tests.debian.opensmtpd import running_opensmtpd
from tests.debian.postfix import running_postfix_alike
from tests.debian.refusing import refusing_everybody

MAIL_SERVERS = {
    'exim': running_exim,
    'opensmtpd': running_opensmtpd,
    'postfix': running_postfix_alike,
}


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


@pytest.fixture(scope='session')
def outside():
    """Whom the servers send to; the ingress is started by a test that wants it."""
    with refusing_everybody() as port:
        yield Outside(port, **free_ports('ingress', 'lmtp'))


# One after the other, each started once for the tests of all modules.
@pytest.fixture(scope='session', params=MAIL_SERVERS)
def server(request, outside):
    with (
        open_directory() as directory,
        contextlib.closing(Watchdog()) as watchdog,
        MAIL_SERVERS[request.param](directory, watchdog, outside) as running,
    ):
        yield running
