"""`ops watch` and `ops send`: each step of an e-mail as it happens, and how it ended."""

import asyncio
import json
import os
import signal
import sys

import pytest

from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import closed_port, insert, ops, run

SENT = {'status': 'sent', 'attempts': 1, 'sent_at': 'sql:now()'}
# What is on record, and so always told; `claimed` and `pending` are seen by who looks in time.
STEPS = {'queued', 'accepted', 'deferred', 'rejected', 'failed', 'sent'}


def words_of(lines: str) -> list[str]:
    """What happened, without the phases of a dialogue that somebody was quick enough to see."""
    return [word for line in lines.splitlines() if (word := line.split()[1]) in STEPS]


async def test_test_mail_tells_each_step_until_it_is_sent(env, pool, start_worker, inbox):
    await start_worker().started()
    sent = await ops(env, 'send', 'anna@example.com', '--subject', 'Is it on?', '--yes')
    assert (sent.status, sent.err) == (0, '')
    assert words_of(sent.out) == ['queued', 'accepted', 'sent']
    assert 'primary, after' in sent.out.splitlines()[-2]
    assert len(inbox.accepted('anna@example.com')) == 1
    row = await pool.fetchrow('SELECT action, details, email_ids FROM mail_audit')
    assert (row['action'], row['email_ids']) == ('ops send', [1])
    assert row['details'] == {'recipient': 'anna@example.com'}


async def test_refused_test_mail_ends_with_1_and_hides_the_address_the_relay_quotes(
    env, start_worker
):
    await start_worker().started()
    sent = await ops(env, 'send', 'hal+5xx-rcpt@example.com', '--yes', '--json')
    steps = [json.loads(line) for line in sent.out.splitlines()]
    steps = [step for step in steps if step['what'] in STEPS]
    assert [step['what'] for step in steps] == ['queued', 'rejected', 'failed']
    assert '550 5.1.1' in steps[1]['text']
    assert 'hal+5xx' not in sent.out
    assert sent.status == 1
    assert 'e-mail 1 was not sent: it is failed; `python -m ops explain 1`' in sent.err


async def test_every_attempt_is_told_until_the_relay_takes_it(env, start_worker):
    await start_worker().started()
    sent = await ops(env, 'send', 'gus+4xx-twice@example.com', '--yes')
    told = words_of(sent.out)
    assert sent.status == 0
    assert [word for word in told if word in ('deferred', 'accepted')] == [
        'deferred', 'deferred', 'accepted',
    ]  # fmt: skip
    assert told[-1] == 'sent'


async def test_mail_that_waits_ends_with_75_and_says_that_no_worker_replies(env, pool, redis):
    await redis.flushdb()
    email_id = await insert(pool)
    watched = await ops(env, 'watch', str(email_id), '--for', '3s')
    assert watched.status == 75
    assert [line.split()[1] for line in watched.out.splitlines()] == ['queued', 'pending']
    assert 'no worker replies; start one' in watched.err
    assert f'e-mail {email_id} is still pending after 3 s' in watched.err


@pytest.mark.parametrize(
    ('row', 'status'),
    [
        (SENT, 0),
        ({'status': 'cancelled'}, 1),
        ({'status': 'held'}, 1),
        ({'status': 'failed', 'attempts': 1, 'dead_reason': 'rejected'}, 1),
        ({'status': 'uncertain', 'attempts': 1}, 1),
        (SENT | {'status': 'bounced', 'feedback_at': 'sql:now()'}, 1),
    ],
    ids=lambda value: value['status'] if isinstance(value, dict) else '',
)  # fmt: skip
async def test_mail_that_is_over_is_told_at_once_with_its_status(env, pool, row, status):
    given = await run(env, 'watch', str(await insert(pool, **row)))
    assert given.exit_status == status


async def test_mail_that_does_not_exist_or_is_deleted_meanwhile_is_said_so(env, pool):
    assert (await run(env, 'watch', '99')).problems[0].what == 'there is no e-mail 99'
    email_id = await insert(pool)
    watching = asyncio.create_task(run(env, 'watch', str(email_id)))
    await asyncio.sleep(1)  # it waits without end; nothing tells that it has begun
    await pool.execute('DELETE FROM outbound_emails')
    assert (await watching).problems[0].what == f'there is no e-mail {email_id}'


async def test_interrupt_ends_it_without_a_word(env, pool):
    email_id = await insert(pool)
    pipe = asyncio.subprocess.PIPE
    watching = await asyncio.create_subprocess_exec(
        sys.executable, '-m', 'ops', 'watch', str(email_id), cwd=ROOT, env=env, stdout=pipe,
        stderr=pipe, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert watching.stdout
    assert b'queued' in await watching.stdout.readline()
    os.kill(watching.pid, signal.SIGINT)
    _, err = await watching.communicate()
    assert watching.returncode == 130
    assert b'Traceback' not in err


async def test_watch_goes_on_when_postgresql_was_away(env, pool):
    email_id = await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    pipe = asyncio.subprocess.PIPE
    watching = await asyncio.create_subprocess_exec(
        sys.executable, '-m', 'ops', 'watch', str(email_id), cwd=ROOT, env=env, stdout=pipe,
        stderr=pipe,
    )  # fmt: skip
    assert watching.stdout
    assert b'queued' in await watching.stdout.readline()
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops'"

    async def is_cut_off() -> bool:
        return bool(await pool.fetch(ended))

    await wait_until(is_cut_off)
    await asyncio.sleep(0.5)
    await pool.execute("UPDATE outbound_emails SET status = 'cancelled', next_retry_at = NULL")
    out, _ = await watching.communicate()
    assert watching.returncode == 1
    assert b'cancelled' in out


@pytest.mark.parametrize(
    ('words', 'what'),
    [
        (['no address'], "'no address' is not an e-mail address"),
        (['a@example.com', '--from', 'x'], 'from_address'),
        (['a@example.com', '--subject', 'a\nb'], 'subject'),
    ],
)
async def test_what_can_never_be_sent_is_refused_before_it_is_queued(env, pool, words, what):
    given = await run(env, 'send', *words, '--yes')
    assert given.exit_status == 2
    assert what in given.problems[0].what
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_test_mail_is_not_queued_without_an_answer_nor_by_a_dry_run(env, pool):
    assert (await ops(env, 'send', 'anna@example.com')).status == 2
    assert 'nothing was' in (await ops(env, 'send', 'anna@example.com', '--dry-run')).out
    away = env | {'DATABASE_URL': f'postgresql://127.0.0.1:{closed_port()}/mail'}
    assert (await ops(away, 'send', 'anna@example.com', '--yes')).status == 1
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0
