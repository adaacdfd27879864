"""Real workers under an operator's hands."""

import asyncio
import os

from arq import create_pool

from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.ops_desk import run


async def queue_and_enqueue(env, pool, *, count=1, **parts):
    producer = await create_pool(redis_settings(env['ARQ_REDIS_URL']))
    ids = []
    for _ in range(count):
        async with pool.acquire() as conn, conn.transaction():
            ids.append(
                await queue_email(
                    conn, recipient='a@example.com', subject='s', body_text='t', **parts
                )
            )
        await producer.enqueue_job('send_email', ids[-1])
    await producer.aclose()
    return ids


def sent(pool, ids):
    async def look():
        return await pool.fetchval(
            "SELECT count(*) FROM outbound_emails WHERE id = ANY($1::bigint[]) AND status = 'sent'",
            ids,
        ) == len(ids)

    return look


async def test_pauses_outlive_restarts_and_an_emptied_redis_and_resuming_sends_at_once(
    start_worker, env, pool, redis, inbox
):
    await run(env, 'control', 'pause', '--type', 'news', '--force', '--yes')
    first = await start_worker().started()
    news, other = (
        await queue_and_enqueue(env, pool, email_type='news'),
        await queue_and_enqueue(env, pool),
    )
    await wait_until(sent(pool, other))
    first.stop()
    await redis.flushdb()
    second = await start_worker().started()
    # Its start-up sweep is over when what came after it was sent.
    await wait_until(sent(pool, await queue_and_enqueue(env, pool)))
    row = await pool.fetchrow('SELECT status, attempts FROM outbound_emails WHERE id = $1', news[0])
    assert tuple(row) == ('pending', 0)
    await run(env, 'control', 'resume', '--type', 'news', '--yes')
    await wait_until(sent(pool, news))
    await run(env, 'control', 'pause', '--queue', 'arq:queue', '--yes')
    await wait_until(lambda: 'queue arq:queue is paused' in second.log)
    waiting = await queue_and_enqueue(env, pool)
    (worker,) = (await run(env, 'status')).document['workers']
    assert worker['state'] == 'paused'
    assert await redis.zcard('arq:queue') == 1
    await run(env, 'control', 'resume', '--queue', 'arq:queue', '--yes')
    await wait_until(sent(pool, waiting))


async def test_live_worker_tells_what_it_does_obeys_and_drains(
    start_worker, env, pool, redis, inbox, tmp_path, capsys
):
    port = tmp_path / 'port'
    port.write_text(env['SMTP_PORT'])
    del env['SMTP_PORT']
    worker = await start_worker(
        SMTP_PORT_FILE=str(port), WORKER_NAME='live', LOG_FORMAT='json'
    ).started()

    async def registered():
        return (await run(env, 'status')).exit_status == 0

    await wait_until(registered)
    listening = asyncio.create_task(run(env, 'events'))
    inbox.control.misbehave('dot', 'stall', relay='primary', seconds=3, times=1)
    ids = await queue_and_enqueue(env, pool)

    async def under_way():
        emails = (await run(env, 'inspect', 'active')).document['emails']
        return next((told for told in emails if told['phase'] == 'body-sent'), None)

    told = await wait_until(under_way)
    assert (told['id'], told['relay'], told['worker']) == (
        ids[0],
        'primary',
        f'live@{os.uname().nodename}:{worker.process.pid}',
    )

    await run(env, 'control', 'pause', '--yes', '-d', 'live@*')
    more = await queue_and_enqueue(env, pool)
    await wait_until(sent(pool, ids))
    assert (await run(env, 'status')).document['workers'][0]['state'] == 'paused'
    assert not await sent(pool, more)()
    await run(env, 'control', 'resume', '--yes')
    await wait_until(sent(pool, more))

    for words in (
        ('concurrency', '3'),
        ('pool_grow', '2'),
        ('pool_shrink', '4'),
        ('rate_limit', '50'),
        ('log_level', 'debug'),
    ):
        assert (await run(env, 'control', *words, '--yes')).exit_status == 0
    (described,) = (await run(env, 'inspect', 'stats')).document['workers']
    assert (
        described['concurrency']['emails'],
        described['rate_limit_per_s'],
        described['log_level'],
    ) == (
        1,
        50,
        'DEBUG',
    )
    told = []

    async def events_are_told():
        await wait_until(sent(pool, await queue_and_enqueue(env, pool, count=5)))
        told.append(capsys.readouterr().out)
        return all(word in ''.join(told) for word in ('claimed', 'accepted'))

    await wait_until(events_are_told)
    listening.cancel()

    port.write_text('many')
    refused = await run(env, 'control', 'reload_relays', '--yes')
    assert refused.exit_status == 1
    assert 'SMTP_PORT' in refused.problems[0].what
    await wait_until(sent(pool, await queue_and_enqueue(env, pool)))
    port.write_text(env['SMTP_BACKUP_PORT'])
    digest = described['settings']
    assert (await run(env, 'control', 'reload_relays', '--yes')).exit_status == 0
    (described,) = (await run(env, 'inspect', 'stats')).document['workers']
    assert described['relays'][0]['place'].endswith(':' + env['SMTP_BACKUP_PORT'])
    assert described['settings'] != digest

    assert (
        'engine/dispatcher.py'
        in (await run(env, 'control', 'stacks')).document['done'][0]['stacks']
    )
    assert (await run(env, 'control', 'shutdown', '--yes')).exit_status == 0
    assert await worker.ended() == 0
    assert (await run(env, 'inspect', 'ping')).exit_status == 69


async def test_worker_recycles_itself_after_its_share_and_drains_first(
    start_worker, env, pool, inbox
):
    worker = await start_worker(WORKER_RECYCLE_JOBS='3').started()
    ids = await queue_and_enqueue(env, pool, count=3)
    assert await worker.ended() == 0
    assert await sent(pool, ids)()
    assert 'worker.recycling' in worker.log
    assert (
        await pool.fetchval("SELECT count(*) FROM email_attempts WHERE outcome <> 'accepted'") == 0
    )


async def test_worker_obeys_again_after_redis_was_killed(start_worker, env, redis, stack):
    worker = await start_worker().started()

    async def replies():
        try:
            return (await run(env, 'inspect', 'ping')).exit_status == 0
        except (ConnectionError, OSError):
            return False

    await wait_until(replies)
    stack.valkey.kill()
    try:
        assert (await run(env, 'inspect', 'ping')).exit_status == 1
    finally:
        stack.valkey.start()
    await wait_until(replies)
    assert worker.process.poll() is None
