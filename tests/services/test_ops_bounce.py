"""`python -m ops bounce`: what a pipe of Postfix or procmail gives it, and how it ends."""

import asyncio
import sys

from ops.bounce import NO_INPUT, TEMPORARY_FAILURE
from tests.services.ops_desk import ROOT, closed_port, insert
from tests.unit.bounce_messages import PATHS, dsn

SECRETS = {'BOUNCE_ADDRESS': PATHS.address, 'BOUNCE_SECRET': PATHS.secrets[0]}


async def pipe(env, data, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, '-m', 'ops', 'bounce', *arguments,
        cwd=ROOT, env=env | SECRETS, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate(data)
    return process.returncode, out.decode()


async def test_a_message_on_stdin_changes_its_e_mail(env, pool):
    email_id = await insert(
        pool, status='sent', attempts=1, sent_at='sql:now()', recipient='anna@example.net'
    )
    path = PATHS.of(email_id)
    status, out = await pipe(env, dsn() + b'x' * 3_000_000, '--recipient', path)
    assert (status, '1 stored' in out, 'it is bounced' in out) == (0, True, True)
    row = await pool.fetchrow('SELECT status FROM outbound_emails WHERE id = $1', email_id)
    assert row['status'] == 'bounced'
    status, out = await pipe(env, dsn(to=path))
    assert (status, '0 stored, 1 known before' in out) == (0, True)


async def test_what_is_no_report_is_taken_and_told(env, pool):
    status, out = await pipe(env, b'Subject: Hello\r\n\r\nHi.\r\n')
    assert (status, 'it reports no failure' in out) == (0, True), out


async def test_without_postgresql_it_is_to_be_given_again(env):
    away = env | {'DATABASE_URL': f'postgresql://x@127.0.0.1:{closed_port()}/x'}
    status, out = await pipe(away, dsn())
    assert (status, 'give it again later' in out) == (TEMPORARY_FAILURE, True)


async def test_a_file_that_is_not_there_is_named(env):
    status, out = await pipe(env, b'', 'missing.eml')
    assert (status, 'missing.eml' in out) == (NO_INPUT, True)
