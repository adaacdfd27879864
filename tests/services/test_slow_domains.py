"""A domain that defers, with a real worker: it alone slows down, and operators see it."""

import json

from tests.conftest import wait_until
from tests.services.ops_desk import insert, ops
from tests.unit.scripted_relay import ScriptedRelay


async def test_domain_that_defers_is_left_alone_and_told_of_while_other_mail_goes_on(
    start_worker, env, pool, redis
):
    slow = [f'u{number}@slow.example' for number in range(12)]
    script = {f'RCPT <{to}>': '450 4.7.1 try again later' for to in slow}
    async with ScriptedRelay(script | {'QUIT': '221 2.0.0 bye'}, name='eu') as server:
        entry = {'name': 'eu', 'host': '127.0.0.1', 'port': server.port, 'tls': 'none'}
        variables = {'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': json.dumps([entry])}
        await start_worker(**variables, SMTP_MAX_CONNECTIONS='1').started()

        async def outcomes() -> dict[str, int]:
            found = await pool.fetch('SELECT outcome, count(*) FROM email_attempts GROUP BY 1')
            return dict(map(tuple, found))

        for number, to in enumerate(slow):
            await redis.enqueue_job('send_email', await insert(pool, recipient=to))
            if number < 3:  # one after the other: each is asked by itself
                await wait_until(lambda n=number: outcomes_sum(pool, n + 1))
        await wait_until(lambda: outcomes_sum(pool, len(slow)))
        found = await outcomes()
        assert (found.keys(), found['deferred']) == ({'deferred', 'released'}, 3)
        other = await insert(pool)
        await redis.enqueue_job('send_email', other)
        await wait_until(lambda: server.bodies)
        assert server.recipients == [*slow[:3], 'anna@example.com']

        waiting = await pool.fetchrow(
            'SELECT id, attempts, status, next_retry_at - now() AS wait FROM outbound_emails '
            "WHERE recipient = 'u9@slow.example'"
        )
        assert (waiting['attempts'], waiting['status']) == (0, 'pending')
        assert 20 < waiting['wait'].total_seconds() < 40
        await wait_until(lambda: told(env))
        shown = await ops(env, 'qshape')
        assert 'slow.example is left alone for ' in shown.out
        assert 'by 1 worker: 450 4.7.1 try again later' in ' '.join(shown.out.split())
        explained = (await ops(env, 'explain', str(waiting['id']), '--json')).document
        assert any(
            'slow.example deferred several e-mails in a row' in reason['what']
            for reason in explained['because']
        )


async def outcomes_sum(pool, number: int) -> bool:
    return await pool.fetchval('SELECT count(*) FROM email_attempts') >= number


async def all_sent(pool, number: int) -> bool:
    sent = await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'sent'")
    return sent == number


async def told(env) -> bool:
    return bool((await ops(env, 'qshape', '--json')).document['left_alone'])


async def test_limit_of_a_domain_spreads_its_mail_and_costs_no_attempt(
    start_worker, env, pool, redis
):
    async with ScriptedRelay({'QUIT': '221 2.0.0 bye'}, name='eu') as server:
        entry = {'name': 'eu', 'host': '127.0.0.1', 'port': server.port, 'tls': 'none'}
        limit = {'domain': 'example.org', 'max_per_s': 4}
        variables = {
            'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': json.dumps([entry]),
            'DOMAIN_LIMITS': json.dumps([limit]),
        }  # fmt: skip
        await start_worker(**variables).started()
        limited = [await insert(pool, recipient=f'u{n}@example.org') for n in range(20)]
        free = [await insert(pool, recipient=f'u{n}@example.com') for n in range(20)]
        for email_id in (*limited, *free):
            await redis.enqueue_job('send_email', email_id)
        await wait_until(
            lambda: sum(to.endswith('example.com') for to in server.recipients) == len(free)
        )
        assert sum(to.endswith('example.org') for to in server.recipients) < 12
        await wait_until(lambda: all_sent(pool, 40))
        sent = await pool.fetch(
            'SELECT attempts, EXTRACT(EPOCH FROM sent_at) AS at FROM outbound_emails '
            "WHERE recipient LIKE '%example.org' ORDER BY sent_at"
        )
        assert {row['attempts'] for row in sent} == {1}
        assert sent[-1]['at'] - sent[0]['at'] > 3.5  # 20 at 4 a second are 5 s
