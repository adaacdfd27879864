import asyncio
import contextlib
import json
import os
import pty
import signal
import sys

from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import Attachment
from tests.conftest import DEADLINE_S, wait_until
from tests.services.ops_desk import (
    ROOT,
    Typed,
    as_document,
    closed_port,
    insert,
    ops,
    rendered,
    run,
    statuses,
)

AN_HOUR_AGO = "sql:now() - interval '1 hour'"
IN_AN_HOUR = "sql:now() + interval '1 hour'"


async def listed(env, *arguments):
    return {
        email['id']: email for email in (await run(env, 'failed', *arguments)).document['emails']
    }


async def test_failed_lists_failed_dead_and_uncertain_newest_first(env, pool):
    await insert(pool)
    retrying = await insert(
        pool, status='failed', attempts=1, next_retry_at=IN_AN_HOUR, created_at=AN_HOUR_AGO
    )
    dead = await insert(
        pool,
        status='failed',
        attempts=2,
        smtp_code=550,
        enhanced_code='5.1.1',
        dead_reason='rejected',
    )
    uncertain = await insert(
        pool, status='uncertain', attempts=1, created_at="sql:now() - interval '2 hours'"
    )
    emails = await listed(env)
    assert [(i, email['status']) for i, email in emails.items()] == [
        (dead, 'failed'),
        (retrying, 'failed'),
        (uncertain, 'uncertain'),
    ]
    assert (emails[dead]['smtp_code'], emails[dead]['enhanced_code'], emails[dead]['attempts']) == (
        550,
        '5.1.1',
        2,
    )
    assert (emails[dead]['is_final'], emails[retrying]['is_final']) == (True, False)
    (row,) = [
        line for line in rendered('failed', await run(env, 'failed')).splitlines() if '550' in line
    ]
    assert ' dead ' in row
    assert ' 550 5.1.1 ' in row
    assert list(await listed(env, '--dead')) == [dead]
    assert list(await listed(env, '--limit', '1')) == [dead]
    assert list(await listed(env, '--since', '90m')) == [dead, retrying]


async def test_failed_lists_mail_that_was_sent_to_some_of_its_recipients_only(env, pool):
    refused = {
        'anna@example.com': ['accepted', '250 ok'],
        'ben@example.org': ['rejected', '550 5.1.1 unknown'],
    }
    taken = {'anna@example.com': ['accepted', '250 ok'], 'ben@example.org': ['accepted', '250 ok']}
    sent = {
        'status': 'sent',
        'sent_at': 'sql:now()',
        'last_error': 'ben@example.org: 550 5.1.1 unknown',
    }
    in_part = await insert(
        pool, **sent, recipient_outcomes=refused, email_type='news', created_at=AN_HOUR_AGO
    )
    await insert(pool, **sent, recipient_outcomes=taken)
    await insert(
        pool, **sent, recipient_outcomes=refused, created_at="sql:now() - interval '9 days'"
    )
    failed = await insert(pool, status='failed', created_at=AN_HOUR_AGO)
    assert list(await listed(env)) == [failed, in_part]
    assert list(await listed(env, '--type', 'news')) == [in_part]
    assert list(await listed(env, '--dead')) == [failed]
    (row,) = [
        line
        for line in rendered('failed', await run(env, 'failed')).splitlines()
        if 'sent in part' in line
    ]
    assert '***@example.org: 550 5.1.1 unknown' in row


async def test_failed_since_counts_from_the_last_attempt(env, pool):
    old = {'status': 'failed', 'attempts': 1, 'created_at': "sql:now() - interval '3 days'"}
    await insert(pool, last_attempt_at="sql:now() - interval '2 days'", **old)
    lately = await insert(pool, last_attempt_at="sql:now() - interval '10 minutes'", **old)
    assert list(await listed(env, '--since', '1d')) == [lately]


async def test_failed_hides_people_unless_they_are_asked_for(env, pool):
    email_id = await insert(
        pool,
        recipient='"Anna Smith" <anna@example.com>, ben@example.org',
        status='failed',
        last_error='550 5.1.1 <anna@example.com>: no such user',
    )
    hidden = (await listed(env))[email_id]
    assert hidden['recipient'] == '***@example.com, ***@example.org'
    assert hidden['error'] == '550 5.1.1 <***@example.com>: no such user'
    shown = (await listed(env, '--show-recipients'))[email_id]
    assert shown['recipient'] == '"Anna Smith" <anna@example.com>, ben@example.org'
    assert 'anna@example.com' in shown['error']


async def test_failed_table_cannot_be_used_to_steer_a_terminal(env, pool):
    await insert(
        pool,
        status='failed',
        last_error='\x1b[2J\x1b]0;owned\x07 [bold]550[/bold]\nsecond :smile: line',
    )
    finished = await ops(env, 'failed')
    assert (finished.status, finished.err) == (0, '')
    assert '\x1b' not in finished.out
    assert '\x07' not in finished.out
    (row,) = [line for line in finished.out.splitlines() if '550' in line]
    assert '[bold]550[/bold] second :smile: line' in row


async def test_show_tells_row_attempts_attachments_and_the_next_step(env, pool, mongo, redis):
    await redis.set('arq:queue:health-check', b'1', px=60_000)
    files = [
        Attachment('rechnung.pdf', 'application/pdf', b'%PDF'),
        Attachment('logo.png', 'image/png', b'x', 'logo'),
    ]
    email_id = await insert(
        pool,
        status='failed',
        attempts=2,
        next_retry_at="sql:now() + interval '3 hours'",
        content_id=await store_attachments(mongo, files),
        subject='Grüße',
        body_text='Your code is 4711.',
        recipient_outcomes={'anna@example.com': ['deferred', '450 4.2.1 anna@example.com is busy']},
    )
    for minutes_ago, outcome, reply in ((9, 'deferred', '450 busy'), (5, 'uncertain', None)):
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
            'reply, duration_ms) '
            "VALUES ($1, now() - $2 * interval '1 minute', 1, 'w1', $3, 'rcpt', $4, 12)",
            email_id, minutes_ago, outcome, reply,
        )  # fmt: skip
    given = await run(env, 'show', str(email_id))
    assert given.exit_status == 0
    document = given.document
    assert (document['email']['subject'], document['email']['body_text_bytes']) == ('Grüße', 18)
    assert 'body_text' not in document['email']
    assert document['email']['recipient_outcomes'] == [
        ['***@example.com', 'deferred', '450 4.2.1 ***@example.com is busy']
    ]
    assert [(a['outcome'], a['reply'], a['duration_ms']) for a in document['attempts']] == [
        ('deferred', '450 busy', 12),
        ('uncertain', None, 12),
    ]
    assert document['attachments'] == [
        {'filename': 'rechnung.pdf', 'content_type': 'application/pdf', 'cid': None},
        {'filename': 'logo.png', 'content_type': 'image/png', 'cid': 'logo'},
    ]
    assert document['next'].startswith('In 3.0 h, at ')
    assert document['next'].endswith(' a worker makes attempt 3 of 5.')
    tables = rendered('show', given)
    assert 'rechnung.pdf' in tables
    assert '4711' not in tables


async def test_show_of_mail_being_sent_tells_the_attempt_under_way_and_no_time_gone_by(
    env, pool, redis
):
    email_id = await insert(pool, status='sending', attempts=1, next_retry_at=AN_HOUR_AGO)
    tables = rendered('show', await run(env, 'show', str(email_id)))
    assert 'Attempt 1 is under way; its row is written at the end.' in tables
    assert 'Attempts: none' not in tables
    assert 'next retry at' not in tables
    waiting = await insert(pool, next_retry_at=AN_HOUR_AGO)
    tables = rendered('show', await run(env, 'show', str(waiting)))
    assert 'Attempts: none' in tables
    assert 'next retry at' in tables


async def test_show_content_and_recipients_on_request_as_json(env, pool):
    email_id = await insert(
        pool,
        body_text='Your code is 4711.',
        template_data={'a': [1]},
        headers={'Reply-To': 'x@y.z'},
    )
    given = await run(env, 'show', str(email_id), '--content', '--show-recipients')
    assert given.exit_status == 0
    email = as_document(given)['email']
    assert 'Your code is 4711.' in rendered('show', given)
    assert (email['recipient'], email['body_text']) == ('anna@example.com', 'Your code is 4711.')
    assert json.loads(email['template_data']) == {'a': [1]}
    assert email['headers'] == {'Reply-To': 'x@y.z'}
    assert given.document['next'].endswith('But no worker replies: start one.')


async def test_show_of_an_unknown_id_is_a_line_and_exit_1(env):
    finished = await ops(env, 'show', '404')
    assert (finished.status, finished.out) == (1, '')
    assert finished.err == 'ops show: there is no e-mail 404; see `python -m ops failed` for ids\n'


async def test_show_goes_on_without_mongodb_and_redis(env, pool):
    email_id = await insert(pool, content_id='c1')
    away = {
        'MONGODB_URL': f'mongodb://mail:geheim@127.0.0.1:{closed_port()}',
        'ARQ_REDIS_URL': f'redis://127.0.0.1:{closed_port()}/1',
        'MONGODB_TIMEOUT_S': '0.2',
    }
    given = await run(env | away, 'show', str(email_id))
    assert given.exit_status == 1
    assert sorted(problem.service for problem in given.problems) == ['MongoDB', 'Redis']
    assert 'geheim' not in ''.join(problem.line for problem in given.problems)
    assert given.document['attachments'] is None
    assert given.document['next'] == (
        'It is due: the next free worker or sweep (every 5 minutes) makes attempt 1 of 5.'
    )


async def test_retry_makes_ended_mail_due_queues_it_and_says_why_not_the_others(env, pool, redis):
    await redis.set('arq:queue:health-check', b'1', px=60_000)
    dead = await insert(pool, status='failed', attempts=5, max_attempts=5)
    expired = await insert(pool, status='expired', expires_at=AN_HOUR_AGO)
    sent = await insert(pool, status='sent', sent_at="sql:'2026-01-02T03:04:05Z'")
    sending = await insert(pool, status='sending')
    pending = await insert(pool)
    ids = [dead, expired, sent, sending, pending, 404]
    finished = await ops(env, 'retry', *map(str, ids), '--yes', '--json')
    assert finished.status == 1
    assert finished.err == 'ops retry: 4 e-mails not changed; see the reasons\n'
    assert finished.document['retried'] == [dead, expired]
    assert finished.document['enqueued'] == 2
    assert {u['id']: u['reason'] for u in finished.document['unchanged']} == {
        sent: 'it was sent at 2026-01-02 03:04:05Z',
        sending: 'mail-7@host:42 is sending it',
        pending: 'it is pending already',
        404: 'there is no such e-mail',
    }
    rows = await pool.fetch(
        'SELECT * FROM outbound_emails WHERE id = ANY($1) ORDER BY id', [dead, expired]
    )
    assert [(row['status'], row['max_attempts']) for row in rows] == [
        ('pending', 6),
        ('pending', 5),
    ]
    # Two jobs of the same millisecond have no order between them.
    assert {(job.function, job.args) for job in await redis.queued_jobs()} == {
        ('send_email', (dead,)),
        ('send_email', (expired,)),
    }


async def test_retry_is_sent_by_a_worker(env, pool, inbox, start_worker):
    email_id = await insert(
        pool, recipient='retry@example.com', status='failed', attempts=5, max_attempts=5
    )
    await start_worker().started()
    assert (await run(env, 'retry', str(email_id), '--yes')).exit_status == 0

    async def sent():
        return (await statuses(pool))[email_id] == 'sent'

    await wait_until(sent)
    assert len(inbox.accepted('retry@example.com')) == 1


async def test_retry_with_redis_away_makes_it_due_and_tells_postgresql(env, pool):
    email_id = await insert(pool, status='failed')
    heard = asyncio.Event()
    async with pool.acquire() as conn:

        def hear(*_):
            heard.set()

        await conn.add_listener('outbound_emails_due', hear)
        given = await run(
            env | {'ARQ_REDIS_URL': f'redis://127.0.0.1:{closed_port()}/1'},
            'retry',
            str(email_id),
            '--yes',
        )
        await asyncio.wait_for(heard.wait(), DEADLINE_S)
        await conn.remove_listener('outbound_emails_due', hear)
    assert given.exit_status == 1
    assert (given.document['retried'], given.document['enqueued']) == ([email_id], 0)
    assert [problem.service for problem in given.problems] == ['Redis']
    assert (
        '1 e-mail due now, 0 queued; 1 without a job: workers were told through PostgreSQL.'
        in rendered('retry', given)
    )
    assert await statuses(pool) == {email_id: 'pending'}


async def test_retry_without_a_worker_says_that_nobody_will_send_it_and_ends_with_69(env, pool):
    await insert(pool, status='cancelled')
    for words in ((str(await insert(pool, status='failed')),), ('--status', 'cancelled')):
        given = await run(env, 'retry', *words, '--yes')
        assert [problem.what for problem in given.problems] == [
            '1 e-mail due, but no worker replied'
        ]
        assert (given.exit_status, len(given.document['retried'])) == (69, 1)
        dry = await run(env, 'retry', *words, '--dry-run')
        assert dry.exit_status != 69


async def test_retry_dry_run_changes_nothing(env, pool, redis):
    email_id = await insert(pool, status='cancelled')
    given = await run(env, 'retry', str(email_id), str(email_id), '404', '--dry-run')
    assert given.exit_status == 1
    assert given.document['would_retry'] == [email_id]
    assert given.document['unchanged'] == [{'id': 404, 'reason': 'there is no such e-mail'}]
    assert await statuses(pool) == {email_id: 'cancelled'}
    assert await redis.keys('*') == []
    assert 'Would send 1 e-mail again; nothing was changed.' in rendered('retry', given)


@contextlib.asynccontextmanager
async def retry_at_a_terminal(env, email_id):
    """`ops retry` that has asked its question: the process and our end of its terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, '-m', 'ops', 'retry', str(email_id),
        cwd=ROOT, env=env, stdin=theirs, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.stderr.readuntil(b'[y/N] ') == (
        b'Send 1 e-mail again? 1 e-mail that may have been delivered already would arrive '
        b'twice. [y/N] '
    )
    yield process, ours
    os.close(ours)
    os.close(theirs)


async def test_retry_asks_at_a_terminal_and_no_changes_nothing(env, pool):
    email_id = await insert(pool, status='uncertain', attempts=1)
    async with retry_at_a_terminal(env, email_id) as (process, terminal):
        os.write(terminal, b'n\n')
        _, err = await process.communicate()
    assert err == b'ops retry: not confirmed, nothing was changed; answer y, or give --yes\n'
    assert process.returncode == 1
    assert await statuses(pool) == {email_id: 'uncertain'}


async def test_retry_and_resolve_ask_only_about_what_they_would_change(
    env, pool, monkeypatch, capsys
):
    monkeypatch.setattr('ops.arguments.sys.stdin', Typed('n\nn\n'))
    held = await insert(pool, status='uncertain', attempts=1)
    await run(env, 'retry', str(held), '404')
    assert capsys.readouterr().err.startswith(
        'Send 1 e-mail again, and leave 404 alone? 1 e-mail that may have been'
    )
    await run(env, 'resolve', str(held), '404', '--as', 'sent')
    assert capsys.readouterr().err == 'Resolve 1 e-mail as sent, and leave 404 alone? [y/N] '
    for words in (
        ('retry', '404'),
        ('resolve', '404', '--as', 'sent'),
        ('suppress', 'rm', 'anna@example.com'),
    ):
        assert (await run(env, *words)).exit_status == 1
    assert capsys.readouterr().err == ''


async def test_the_first_ctrl_c_ends_a_question(env, pool):
    email_id = await insert(pool, status='uncertain', attempts=1)
    async with retry_at_a_terminal(env, email_id) as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, err) == (130, b'')
    assert await statuses(pool) == {email_id: 'uncertain'}


async def test_a_role_without_rights_is_told_so(env, pool, database):
    email_id = await insert(pool, status='failed')
    role = f'reader_{os.getpid()}_{email_id}'
    await pool.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    await pool.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}')
    dsn = database.dsn.split('@')[1]
    reader = env | {'DATABASE_URL': f'postgresql://{role}:geheim@{dsn}'}
    wrong = env | {'DATABASE_URL': f'postgresql://{role}:falsch@{dsn}'}
    try:
        assert (await run(reader, 'failed')).exit_status == 0
        refused = await run(reader, 'retry', str(email_id), '--yes')
        assert refused.exit_status == 1
        assert refused.problems[0].line.endswith(
            'permission denied for view mail_outbox; use a role that may do this in '
            'DATABASE_URL or DB_USER'
        )
        (problem,) = (await run(wrong, 'failed')).problems
        assert problem.remedy == 'correct DB_USER and DB_PASSWORD, or DATABASE_URL'
    finally:
        await pool.execute(f'DROP OWNED BY {role}')
        await pool.execute(f'DROP ROLE {role}')
