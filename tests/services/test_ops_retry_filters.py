import asyncio
from datetime import UTC, datetime

from tests.services.ops_desk import as_document, insert, rendered, run, statuses

IN_AN_HOUR = "sql:now() + interval '1 hour'"


def ago(minutes):
    return f"sql:now() - interval '{minutes} minutes'"


async def retried(env, *arguments):
    given = await run(env, 'retry', *arguments, '--yes')
    assert all('no worker replied' in problem.what for problem in given.problems)
    return given.document['retried']


async def test_retry_by_filter_takes_exactly_what_every_condition_fits(env, pool):
    fits = {
        'status': 'failed',
        'attempts': 5,
        'email_type': 'receipt',
        'relay': 'primary',
        'last_attempt_at': ago(60),
        'recipient': '"Anna, at work" <anna@Example.COM>, ben@example.org',
        'last_error': 'connect TIMEOUT after 10 s',
    }
    both = [
        await insert(pool, **fits),
        await insert(pool, **fits | {'smtp_response': 'Timeout', 'last_error': None}),
    ]
    for other in (
        {'status': 'sent', 'sent_at': 'sql:now()'}, {'status': 'uncertain'}, {'email_type': 'news'},
        {'relay': 'backup'}, {'last_attempt_at': ago(300)}, {'last_attempt_at': ago(2)},
        {'last_error': 'refused'},
        {'recipient': 'anna@example.com.evil.org'}, {'recipient': 'anna@mail.example.com'},
    ):  # fmt: skip
        await insert(pool, **fits | other)
    arguments = ('--status', 'failed', '--since', '2h', '--until', '30m', '--error-like', 'timeout',
                 '--domain', 'example.com', '--type', 'receipt', '--relay', 'primary')  # fmt: skip
    assert await retried(env, *arguments) == both
    found = await statuses(pool)
    assert [found[i] for i in both] == ['pending', 'pending']
    assert list(found.values()).count('pending') == 2
    assert await retried(env, *arguments) == []


async def test_retry_status_names_one_state(env, pool):
    rows = {
        'retrying': {'status': 'failed', 'attempts': 1, 'next_retry_at': IN_AN_HOUR},
        'dead': {'status': 'failed', 'attempts': 5, 'dead_reason': 'exhausted'},
        'uncertain': {'status': 'uncertain', 'attempts': 1},
        'expired': {'status': 'expired', 'expires_at': ago(60)},
        'cancelled': {'status': 'cancelled'},
        'sending': {'status': 'sending'},
        'pending': {},
    }
    ids = {name: await insert(pool, **columns) for name, columns in rows.items()}
    for status, expected in (
        ('dead', 'dead'), ('failed', 'retrying'), ('uncertain', 'uncertain'),
        ('expired', 'expired'),
        ('cancelled', 'cancelled'),
    ):  # fmt: skip
        assert await retried(env, '--status', status) == [ids[expected]]
    await pool.execute("UPDATE outbound_emails SET status = 'failed' WHERE id = $1", ids['dead'])
    assert await retried(env, '--status', 'failed') == [ids['dead']]


async def test_retry_of_cancelled_mail_counts_from_its_cancellation(env, pool):
    await insert(pool, status='cancelled', updated_at=ago(120))
    lately = await insert(pool, status='cancelled', created_at=ago(9999), updated_at=ago(5))
    assert await retried(env, '--status', 'cancelled', '--since', '10m') == [lately]


async def test_retry_since_takes_a_time_in_utc(env, pool):
    early = {'status': 'failed', 'last_attempt_at': "sql:'2026-08-01T14:29:00Z'"}
    await insert(pool, **early)
    late = await insert(pool, **early | {'last_attempt_at': "sql:'2026-08-01T14:31:00Z'"})
    given = await run(env, 'retry', '--status', 'failed', '--since', '2026-08-01T14:30', '--yes')
    assert given.document['retried'] == [late]
    assert given.document['selection']['since'] == datetime(2026, 8, 1, 14, 30, tzinfo=UTC)


async def test_retry_dry_run_counts_warns_and_shows_a_sample_without_people(env, pool):
    for _ in range(3):
        await insert(
            pool,
            status='failed',
            dead_reason='rejected',
            attempts=1,
            last_error='550 anna@example.com no',
        )
    await insert(pool, status='failed', next_retry_at=IN_AN_HOUR)
    given = await run(env, 'retry', '--status', 'failed', '--limit', '2', '--dry-run')
    document = as_document(given)
    assert (document['matched'], document['would_retry'], document['retried']) == (4, 2, [])
    assert {(c['final_because'], c['emails']) for c in document['counts']} == {
        ('rejected', 3),
        (None, 1),
    }
    assert document['warnings'] == [
        '3 e-mails refused for good: the relay will say the same again.'
    ]
    assert document['sample'][-1]['error'] == '550 ***@example.com no'
    assert 'anna' not in rendered('retry', given)
    assert 'Would send 2 of 4 e-mails again, the oldest first; nothing was changed.' in rendered(
        'retry', given
    )
    assert set((await statuses(pool)).values()) == {'failed'}


async def test_retry_of_many_goes_in_batches_wakes_once_and_puts_no_job_into_redis(
    env, pool, redis, monkeypatch
):
    monkeypatch.setattr('actions.emails.BATCH', 3)
    ids = [await insert(pool, status='failed', attempts=5) for _ in range(8)]
    heard = []
    async with pool.acquire() as conn:

        def hear(*_):
            heard.append(1)

        await conn.add_listener('outbound_emails_due', hear)
        given = await run(env, 'retry', '--status', 'failed', '--limit', '7', '--yes')
        async with asyncio.timeout(60):
            while not heard:
                await conn.execute('SELECT 1')
        await conn.execute('SELECT 1')
        await conn.remove_listener('outbound_emails_due', hear)
    assert (given.document['retried'], given.document['left'], given.document['passed_over']) == (
        ids[:7],
        1,
        0,
    )
    assert heard == [1]
    assert await redis.keys('*') == []
    assert '1 more e-mail fits: run it again' in rendered('retry', given)


async def test_retry_of_many_ids_puts_no_job_each_into_redis(env, pool, redis, monkeypatch):
    monkeypatch.setattr('actions.emails.MAX_JOBS', 2)
    ids = [await insert(pool, status='cancelled') for _ in range(3)]
    given = await run(env, 'retry', *map(str, ids), '--yes')
    assert (given.document['retried'], given.document['enqueued']) == (ids, 0)
    assert await redis.keys('*') == []


async def test_retry_passes_over_what_changed_between_the_count_and_the_change(
    env, pool, monkeypatch
):
    stays, goes = await insert(pool, status='failed'), await insert(pool, status='failed')

    def meanwhile(*_, **__):
        changed.append(asyncio.ensure_future(pool.execute(
            "UPDATE outbound_emails SET status = 'uncertain' WHERE id = $1", goes)))  # fmt: skip

    changed = []
    monkeypatch.setattr('ops.retry.confirm', meanwhile)
    monkeypatch.setattr('actions.retry.retry_in_batches', _after(changed))
    given = await run(env, 'retry', '--status', 'failed', '--yes')
    assert (given.document['retried'], given.document['passed_over']) == ([stays], 1)
    assert await statuses(pool) == {stays: 'pending', goes: 'uncertain'}


def _after(changed):
    from actions.retry import retry_in_batches  # noqa: PLC0415 - the one that is replaced

    async def retry_after(*arguments):
        await asyncio.gather(*changed)
        return await retry_in_batches(*arguments)

    return retry_after


async def test_retry_without_a_clear_choice_is_a_usage_error(env):
    for arguments, what in (
        ((), 'give either ids or --status'),
        (('1', '--status', 'failed'), 'give either ids or --status'),
        (('--since', '2h'), '--status is missing'),
    ):
        given = await run(env, 'retry', *arguments, '--yes')
        assert (given.exit_status, given.problems[0].what) == (2, what)


async def test_retry_takes_any_text_as_text(env, pool):
    await insert(pool, status='failed', last_error='refused')
    for text in ('%', '_', '\\', "'; DROP TABLE outbound_emails; --", '[(', 'ä' * 5000):
        given = await run(
            env, 'retry', '--status', 'failed', '--error-like', text, '--domain', text, '--type',
            text, '--relay', text,
            '--dry-run',
        )  # fmt: skip
        assert (given.exit_status, given.document['matched']) == (0, 0)


async def test_failed_narrows_down_by_the_same_conditions(env, pool):
    timeout = await insert(pool, status='failed', last_error='timeout', relay='backup')
    await insert(pool, status='failed', last_error='refused', relay='backup')
    given = await run(env, 'failed', '--error-like', 'time%out', '--relay', 'backup')
    assert [email['id'] for email in given.document['emails']] == [timeout]


async def test_retry_tells_what_was_done_before_a_fault(env, pool, monkeypatch):
    monkeypatch.setattr('actions.emails.BATCH', 2)
    ids = [await insert(pool, status='failed') for _ in range(5)]
    await pool.execute(
        'CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '
        '$a$no$a$; END $$;'
        'CREATE TRIGGER refuse BEFORE UPDATE ON outbound_emails FOR EACH ROW WHEN (OLD.id >= '
        f'{ids[2]}) '
        'EXECUTE FUNCTION refuse()'
    )
    given = await run(env, 'retry', '--status', 'failed', '--yes')
    assert (given.exit_status, given.problems[0].what) == (1, 'no')
    assert (given.document['retried'], given.document['left'], given.document['passed_over']) == (
        ids[:2],
        3,
        0,
    )
    assert list((await statuses(pool)).values()).count('pending') == 2
