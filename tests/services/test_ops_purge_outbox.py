from tests.services.ops_desk import insert, rendered, run, statuses

AN_HOUR_AGO = "sql:now() - interval '1 hour'"
IN_AN_HOUR = "sql:now() + interval '1 hour'"


async def test_purge_outbox_cancels_one_status_and_never_what_is_being_sent(env, pool):
    pending = await insert(pool)
    later = await insert(pool, next_retry_at=IN_AN_HOUR)
    failed = await insert(pool, status='failed', attempts=1, next_retry_at=IN_AN_HOUR)
    dead = await insert(pool, status='failed', attempts=1, dead_reason='rejected')
    sending = await insert(pool, status='sending')
    given = await run(env, 'purge', 'outbox', '--status', 'pending', '--yes')
    assert (given.exit_status, given.document['cancelled'], given.document['final_left']) == (
        0,
        2,
        0,
    )
    assert await statuses(pool) == {
        pending: 'cancelled', later: 'cancelled', failed: 'failed', dead: 'failed',
        sending: 'sending'
    }  # fmt: skip
    given = await run(env, 'purge', 'outbox', '--status', 'failed', '--yes')
    assert (given.document['cancelled'], given.document['final_left']) == (1, 1)
    assert (
        'Left alone: 1 failed e-mail that nothing would send; --dead cancels them too.'
        in rendered('purge', given)
    )
    assert (await statuses(pool))[failed] == 'cancelled'
    given = await run(env, 'purge', 'outbox', '--status', 'failed', '--dead', '--yes')
    assert given.document['cancelled'] == 1
    assert await statuses(pool) == {
        pending: 'cancelled', later: 'cancelled', failed: 'cancelled', dead: 'cancelled',
        sending: 'sending'
    }  # fmt: skip


async def test_purge_outbox_older_than_goes_by_creation_and_over_batches(env, pool, monkeypatch):
    monkeypatch.setattr('db.cancellation.CANCEL_BATCH', 2)
    old = [await insert(pool, created_at="sql:now() - interval '3 hours'") for _ in range(5)]
    young = await insert(pool, created_at=AN_HOUR_AGO)
    dry = await run(
        env, 'purge', 'outbox', '--status', 'pending', '--older-than', '2h', '--dry-run'
    )
    assert (dry.exit_status, dry.document['would_cancel']) == (0, 5)
    assert set((await statuses(pool)).values()) == {'pending'}
    given = await run(env, 'purge', 'outbox', '--status', 'pending', '--older-than', '2h', '--yes')
    assert given.document['cancelled'] == 5
    assert await statuses(pool) == dict.fromkeys(old, 'cancelled') | {young: 'pending'}


async def test_purge_outbox_leaves_a_row_that_somebody_is_claiming(env, pool):
    locked, free = await insert(pool), await insert(pool)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('SELECT FROM outbound_emails WHERE id = $1 FOR UPDATE', locked)
        given = await run(env, 'purge', 'outbox', '--status', 'pending', '--yes')
    assert given.document['cancelled'] == 1
    assert await statuses(pool) == {locked: 'pending', free: 'cancelled'}


async def test_purge_outbox_narrows_down_by_type_domain_and_error(env, pool):
    news = await insert(pool, email_type='news', recipient='Anna <anna@example.com>')
    other_domain = await insert(pool, email_type='news', recipient='ben@mail.example.com')
    receipt = await insert(pool, email_type='receipt')
    arguments = (
        'purge',
        'outbox',
        '--status',
        'pending',
        '--type',
        'news',
        '--domain',
        'Example.com',
    )
    dry = await run(env, *arguments, '--dry-run')
    assert (dry.document['would_cancel'], dry.document['selection']['type']) == (1, 'news')
    assert (await run(env, *arguments, '--yes')).document['cancelled'] == 1
    assert await statuses(pool) == {news: 'cancelled', other_domain: 'pending', receipt: 'pending'}


async def test_purge_outbox_of_uncertain_mail_leaves_what_waits_for_an_operator(env, pool):
    again = await insert(pool, status='uncertain', attempts=1, next_retry_at=IN_AN_HOUR)
    held = await insert(pool, status='uncertain', attempts=1)
    given = await run(env, 'purge', 'outbox', '--status', 'uncertain', '--yes')
    assert (given.document['cancelled'], given.document['final_left']) == (1, 1)
    assert await statuses(pool) == {again: 'cancelled', held: 'uncertain'}
