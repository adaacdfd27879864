"""What people send mail with, against the SMTP ingress: Debian's clients, Django, Node."""

import asyncio
import email.policy
import os
import shutil
import subprocess
from email.parser import BytesParser
from pathlib import Path

import pytest
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend

from actions.tokens import ApiScope, create_token
from db.audit import Actor
from reporting.servers import ServerAddresses, Servers
from tests.node import INSTALL, NODE
from tests.services.ingress_desk import MESSAGE, open_ingress

NODEMAILER = Path(__file__).parent / 'nodemailer'
BODY = '.dot\n..two\n.\nGrüße\nend\n'


@pytest.fixture
async def desk(database):
    async with open_ingress(database.dsn) as desk:
        yield desk


@pytest.fixture
async def token(database):
    servers = Servers(ServerAddresses(database.dsn, ''))
    created = await create_token(servers, 'me', [ApiScope.SEND], by=Actor('anna', 'tests'),
                                 organization_id='7')  # fmt: skip
    await servers.close()
    return created.token


async def output_of(*command, given=b'', env=None, cwd=None):
    """What a client says; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | (env or {}), cwd=cwd,
    )  # fmt: skip
    out, _ = await process.communicate(given)
    assert process.returncode == 0, out.decode(errors='replace')
    return out.decode(errors='replace')


async def messages(pool):
    """The rows, each with its message as a reader sees it."""
    parser = BytesParser(policy=email.policy.default)
    rows = await pool.fetch('SELECT * FROM outbound_emails ORDER BY id')
    return [(row, parser.parsebytes(bytes(row['raw_message']))) for row in rows]


async def test_msmtp_sends_and_logs_in(desk, pool, token):
    command = ('msmtp', '--host=127.0.0.1', f'--port={desk.port}', '--from=noreply@example.com')
    message = MESSAGE.replace(b'\r\n', b'\n') + BODY.encode()
    await output_of(*command, 'anna@example.com', 'bert@example.com', given=message)
    await output_of(
        *command, '--auth=plain', '--user=me', f'--passwordeval=echo {token}', '--tls=off',
        'anna@example.com', given=message,
    )  # fmt: skip
    (first, _), (second, _) = await messages(pool)
    assert bytes(first['raw_message']) == message.replace(b'\n', b'\r\n')
    assert first['recipient'] == 'anna@example.com, bert@example.com'
    assert [first['organization_id'], second['organization_id']] == [None, 7]


async def test_swaks_sends_pipelined_and_logs_in(desk, pool, token):
    common = ('swaks', '--server', f'127.0.0.1:{desk.port}', '--from', 'noreply@example.com')
    said = await output_of(*common, '--to', 'anna@example.com', '--pipeline', '--body', BODY)
    assert '250 2.0.0 queued as 1' in said
    for mechanism in ('PLAIN', 'LOGIN'):
        await output_of(
            *common, '--to', 'anna@example.com,bert@example.com', '--auth', mechanism,
            '--auth-user', 'me', '--auth-password', token,
        )  # fmt: skip
    found = await messages(pool)
    assert [row['organization_id'] for row, _ in found] == [None, 7, 7]
    assert '.dot\r\n..two\r\n.\r\n' in bytes(found[0][0]['raw_message']).decode()


async def test_s_nail_sends_with_an_attachment(desk, pool, tmp_path):
    (tmp_path / 'a.bin').write_bytes(bytes(range(256)) * 1000)
    await output_of(
        's-nail', '-:/', '-Sv15-compat', f'-Smta=smtp://127.0.0.1:{desk.port}',
        '-Ssmtp-auth=none', '-Ssmtp-config=-all,ehlo', '-Sfrom=noreply@example.com',
        '-Shostname=example.com', '-Ssendwait', '-s', 'Grüße', '-a', str(tmp_path / 'a.bin'),
        '-c', 'bert@example.com', '-b', 'hidden@example.com', 'anna@example.com',
        given=BODY.encode(), env={'LC_ALL': 'C.UTF-8'},
    )  # fmt: skip
    ((row, message),) = await messages(pool)
    assert message['subject'] == 'Grüße'
    assert {*row['recipient'].split(', ')} == {
        'anna@example.com', 'bert@example.com', 'hidden@example.com',
    }  # fmt: skip
    (attached,) = message.iter_attachments()
    assert attached.get_content() == bytes(range(256)) * 1000


async def test_djangos_smtp_backend_sends_several_over_one_connection(desk, pool, token):
    def send():
        backend = EmailBackend(
            host='127.0.0.1', port=desk.port, username='me', password=token, use_tls=False,
            use_ssl=False, timeout=30, ssl_keyfile=None, ssl_certfile=None,
        )  # fmt: skip
        made = []
        for n in range(3):
            one = EmailMultiAlternatives(
                f'Grüße {n}', BODY, 'Shop <noreply@example.com>', ['anna@example.com'],
                bcc=['hidden@example.com'], connection=backend,
            )  # fmt: skip
            one.attach_alternative('<p>Grüße</p>', 'text/html')
            one.attach('ä.bin', b'\x00' * 10_000, 'application/octet-stream')
            made.append(one)
        return backend.send_messages(made)

    from django.conf import settings  # noqa: PLC0415

    if not settings.configured:
        settings.configure()
    assert await asyncio.to_thread(send) == 3
    found = await messages(pool)
    assert [message['subject'] for _, message in found] == ['Grüße 0', 'Grüße 1', 'Grüße 2']
    assert {row['organization_id'] for row, _ in found} == {7}
    assert found[0][0]['recipient'] == 'anna@example.com, hidden@example.com'
    text = found[0][1].get_body(('plain',)).get_content()
    assert text.replace('\r\n', '\n') == BODY


@pytest.mark.parametrize('with_token', [False, True])
async def test_nodemailer_sends_several_over_one_connection(
    desk, pool, token, tmp_path, with_token
):
    for name in ('package.json', 'package-lock.json', 'send.mjs'):
        shutil.copy(NODEMAILER / name, tmp_path)
    await output_of(*INSTALL, cwd=tmp_path)
    given = {'PORT': str(desk.port)} | ({'TOKEN': token} if with_token else {})
    said = await output_of(NODE, 'send.mjs', env=given, cwd=tmp_path)
    assert said.splitlines() == [f'250 2.0.0 queued as {n}' for n in (1, 2, 3)]
    found = await messages(pool)
    assert [message['subject'] for _, message in found] == ['Grüße 0', 'Grüße 1', 'Grüße 2']
    assert {row['organization_id'] for row, _ in found} == {7 if with_token else None}
    assert 'hidden@example.com' in found[0][0]['recipient']
    body = found[0][1].get_body(('plain',)).get_content()
    assert body.replace('\r\n', '\n').rstrip('\n') == '.dot\n..two\nGrüße\n.\nend'
    (attached,) = found[0][1].iter_attachments()
    assert attached.get_content() == b'\x07' * 200_000
