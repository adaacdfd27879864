"""Debian's Postfix as a relay: its TLS policies, our certificate, a worker at its limit.

It holds what it takes; each test says what differs from its configuration in bench/postfix.py. What
it shares with other servers is in test_mail_servers.py.
"""

import asyncio
import contextlib
import json
import shutil
import smtplib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.postfix import OWNER, find_postfix, running_postfix
from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
from dev.watchdog import Watchdog
from mail.outcome import Outcome
from mail.relay.options import RelayOptions, Tls, make_context
from mail.relay.pool import Relay
from tests.conftest import wait_until
from tests.debian.guest import open_directory
from tests.services.ops_desk import insert
from tests.unit.scripted_relay import send
from tests.unit.test_relay_keys import client_pem

__all__ = ['client_pem']  # a fixture


@pytest.fixture
def start_postfix():
    assert find_postfix(), 'apt-get install postfix; these tests need root'
    watchdog, stack = Watchdog(), contextlib.ExitStack()
    directory = stack.enter_context(open_directory())

    async def start(settings=None):
        postfix = stack.enter_context(running_postfix(directory, watchdog, settings or {}))
        await wait_until(lambda: asyncio.to_thread(_greets, postfix.port))
        return postfix

    yield start
    stack.close()
    watchdog.close()


def _greets(port: int) -> bool:
    try:
        with smtplib.SMTP('127.0.0.1', port, timeout=5) as client:
            return client.noop()[0] == 250
    except OSError:
        return False


def relay_to(postfix: Any, **options: Any) -> Relay:
    place = {'name': 'postfix', 'host': '127.0.0.1', 'port': postfix.port, 'tls': Tls.NONE}
    return Relay(RelayOptions(**place | {'local_hostname': 'client.example.com'} | options))


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    directory = tmp_path / 'tls'
    directory.mkdir()
    server_tls_context(directory)
    shutil.chown(directory / KEY_NAME, OWNER)
    certificate = directory / CERTIFICATE_NAME
    return certificate, {
        'smtpd_tls_cert_file': str(certificate),
        'smtpd_tls_key_file': str(directory / KEY_NAME),
        'smtpd_tls_security_level': 'may',
        'smtpd_tls_received_header': 'yes',
    }


async def content_of(postfix: Any) -> str:
    await wait_until(lambda: asyncio.sleep(0, postfix.kept()))
    (message,) = postfix.hold.iterdir()
    done = await asyncio.to_thread(
        subprocess.run, ['postcat', message], capture_output=True, check=True, text=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ('tls', 'level', 'outcome'),
    [
        (Tls.NONE, 'may', Outcome.ACCEPTED),
        (Tls.OPPORTUNISTIC, 'may', Outcome.ACCEPTED),
        (Tls.OPPORTUNISTIC, 'none', Outcome.ACCEPTED),
        (Tls.STARTTLS, 'encrypt', Outcome.ACCEPTED),
        (Tls.STARTTLS, 'none', Outcome.RELEASED),
        (Tls.NONE, 'encrypt', Outcome.RELEASED),
    ],
)
async def test_tls_policies_meet_those_of_postfix(start_postfix, tls_files, tls, level, outcome):
    certificate, settings = tls_files
    postfix = await start_postfix(settings | {'smtpd_tls_security_level': level})
    context = make_context(certificate, verify=tls is not Tls.OPPORTUNISTIC)
    relay = relay_to(postfix, tls=tls, tls_context=context)
    assert (await send(relay)).outcome is outcome
    relay.close_idle(older_than_s=0)
    if outcome is Outcome.ACCEPTED:
        encrypted = tls is not Tls.NONE and level != 'none'
        assert ('using TLSv1.3' in await content_of(postfix)) == encrypted


async def test_postfix_that_lets_in_only_our_certificate(start_postfix, tls_files, client_pem):
    certificate, settings = tls_files
    client_pem['certificate'].parent.chmod(0o755)
    postfix = await start_postfix(settings | {
        'smtpd_tls_security_level': 'encrypt', 'smtpd_tls_req_ccert': 'yes',
        'smtpd_tls_CAfile': str(client_pem['certificate']),
    })  # fmt: skip
    nobody = relay_to(postfix, tls=Tls.STARTTLS, tls_context=make_context(certificate))
    assert (await send(nobody)).outcome is Outcome.RELEASED
    context = make_context(certificate, client_pem['certificate'], client_pem['key'])
    known = relay_to(postfix, tls=Tls.STARTTLS, tls_context=context)
    assert (await send(known)).outcome is Outcome.ACCEPTED
    known.close_idle(older_than_s=0)


async def test_worker_sends_by_tls_to_postfix_and_waits_for_its_limit_without_an_attempt(
    start_postfix, tls_files, start_worker, pool, redis
):
    certificate, settings = tls_files
    postfix = await start_postfix(settings | {
        'smtpd_tls_security_level': 'encrypt', 'smtpd_client_message_rate_limit': '5',
        'anvil_rate_time_unit': '600s', 'smtpd_client_event_limit_exceptions': '',
    })  # fmt: skip
    entry = {
        'name': 'postfix', 'host': 'localhost', 'port': postfix.port, 'tls': 'starttls',
        'ca_file': str(certificate), 'source_address': '127.0.0.1',
    }  # fmt: skip
    route = {'name': 'all', 'relays': ['postfix']}
    variables = {'RELAYS': json.dumps([entry]), 'ROUTES': json.dumps([route])}
    await start_worker(SMTP_HOST='', SMTP_BACKUP_HOST='', **variables).started()
    ids = [await insert(pool, recipient=f'u{number}@example.com') for number in range(8)]
    for email_id in ids:
        await redis.enqueue_job('send_email', email_id)

    async def sent() -> bool:
        rows = await pool.fetch('SELECT status, attempts, relay FROM outbound_emails')
        waiting = [row for row in rows if row['status'] == 'pending']
        tried = await pool.fetchval(
            "SELECT count(DISTINCT email_id) FROM email_attempts WHERE outcome = 'released'"
        )
        return (
            len(rows) - len(waiting) == 5
            and tried == 3
            and not any(row['attempts'] for row in waiting)
        )

    await wait_until(sent)
    assert postfix.kept() == 5
