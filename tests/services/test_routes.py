"""ROUTES with real workers: who carries what, what waits, what is told, and a reload."""

import json
from typing import Any

from db.senders import allow_senders
from tests.conftest import wait_until
from tests.services.ops_desk import insert, ops
from tests.unit.scripted_relay import ScriptedRelay

NEWS = {'name': 'news', 'email_type': 'newsletter', 'relays': [{'eu': 1, 'us': 1}]}
BRAND = {'name': 'brand', 'sender_domain': 'brand.example', 'relays': ['us']}
TENANT = {'name': 'tenant', 'organization': '7', 'relays': ['us']}
ORG = {'name': 'org', 'recipient_domain': '*.example.org', 'relays': ['us', 'eu']}
REST = {'name': 'rest', 'relays': ['main']}
BYE = {'QUIT': '221 2.0.0 bye'}


def listed(**servers: ScriptedRelay) -> str:
    return json.dumps([
        {'name': name, 'host': '127.0.0.1', 'port': server.port, 'tls': 'none'}
        for name, server in servers.items()
    ])  # fmt: skip


async def relay_of(pool: Any, email_id: int) -> str | None:
    return await pool.fetchval('SELECT relay FROM outbound_emails WHERE id = $1', email_id)


async def test_each_mail_goes_by_its_route_and_explain_says_which(
    start_worker, env, pool, redis, tmp_path
):
    async with ScriptedRelay(BYE) as main, ScriptedRelay(BYE) as eu, ScriptedRelay(BYE) as us:
        (tmp_path / 'routes.json').write_text(json.dumps([NEWS, BRAND, TENANT, ORG, REST]))
        variables = {
            'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': listed(main=main, eu=eu, us=us),
            'ROUTES': str(tmp_path / 'routes.json'),
        }  # fmt: skip
        await allow_senders(pool, ['a@brand.example'])
        await start_worker(**variables).started()
        wanted = {
            await insert(pool, email_type='newsletter'): ('eu', 'us'),
            await insert(pool, email_type='newsletter', recipient='b@example.com'): ('eu', 'us'),
            await insert(pool, from_address='Us <a@BRAND.example>'): ('us',),
            await insert(pool, organization_id=7): ('us',),
            await insert(pool, recipient='carl@mail.example.org'): ('us',),
            await insert(pool, email_type='welcome'): ('main',),
        }
        for email_id in wanted:
            await redis.enqueue_job('send_email', email_id)
        for email_id, names in wanted.items():
            await wait_until(lambda email_id=email_id: relay_of(pool, email_id))
            assert await relay_of(pool, email_id) in names
        news = [*wanted][:2]
        assert {await relay_of(pool, email_id) for email_id in news} == {'eu', 'us'}

        later = await insert(
            pool, email_type='newsletter', next_retry_at="sql:now() + interval '1 hour'"
        )
        told = await ops(env | variables, 'explain', str(later))
        assert 'Its route is news (email_type is newsletter): it goes by eu (1 of 2) and us' in (
            ' '.join(told.out.split())
        )
        split = await insert(
            pool,
            recipient='a@x.example.org, b@example.com',
            next_retry_at="sql:now() + interval '1 hour'",
        )
        told = (await ops(env | variables, 'explain', str(split), '--json')).document
        whats = [reason['what'] for reason in told['because']]
        assert (
            'Its route for 1 recipient is org (recipient_domain is *.example.org): '
            'it goes by us, else by eu.'
        ) in whats
        assert any('for 1 recipient is rest (all mail that no route before' in w for w in whats)


async def test_route_without_a_relay_delays_only_its_own_mail_and_takes_no_claims(
    start_worker, env, pool, redis
):
    async with ScriptedRelay(BYE) as main, ScriptedRelay(BYE) as eu:
        news = NEWS | {'relays': ['eu']}
        variables = {
            'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': listed(main=main, eu=eu),
            'ROUTES': json.dumps([news, ORG | {'relays': ['eu']}, REST]),
        }  # fmt: skip
        env = env | variables
        paused = await ops(env, 'relay', 'pause', 'eu', '--yes', '--force')
        assert paused.status == 0, paused.err
        await start_worker(**variables).started()
        waiting = [await insert(pool, email_type='newsletter') for _ in range(20)]
        split = await insert(pool, recipient='a@x.example.org, b@example.com')
        other = await insert(pool)
        for email_id in (*waiting, split, other):
            await redis.enqueue_job('send_email', email_id)
        await wait_until(lambda: relay_of(pool, other))
        await wait_until(
            lambda: pool.fetchval(
                "SELECT recipient_outcomes->'b@example.com'->>0 FROM outbound_emails WHERE id = $1",
                split,
            )
        )
        tried = await pool.fetchval(
            'SELECT count(*) FROM email_attempts WHERE email_id = ANY($1)', waiting
        )
        assert tried == 0  # passed over, not claimed and released
        assert eu.sessions == []
        told = (await ops(env, 'explain', str(waiting[0]), '--json')).document
        assert 'No relay of this route can be used now; it waits, and other mail does not.' in [
            reason['what'] for reason in told['because']
        ]
        resumed = await ops(env, 'relay', 'resume', 'eu', '--yes')
        assert resumed.status == 0, resumed.err
        for email_id in waiting:
            await wait_until(lambda email_id=email_id: relay_of(pool, email_id))
            assert await relay_of(pool, email_id) == 'eu'


async def test_reload_takes_new_routes_and_refuses_wrong_ones_with_their_error(
    start_worker, env, pool, redis, tmp_path
):
    routes = tmp_path / 'routes.json'
    routes.write_text(json.dumps([REST]))
    async with ScriptedRelay(BYE) as main, ScriptedRelay(BYE) as us:
        variables = {
            'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': listed(main=main, us=us),
            'ROUTES': str(routes),
        }  # fmt: skip
        await start_worker(**variables).started()

        async def send() -> str | None:
            email_id = await insert(pool, organization_id=7)
            await redis.enqueue_job('send_email', email_id)
            await wait_until(lambda: relay_of(pool, email_id))
            return await relay_of(pool, email_id)

        assert await send() == 'main'
        routes.write_text(json.dumps([TENANT | {'relays': ['mars']}, REST]))
        refused = await ops(env | variables, 'control', 'reload', '--yes')
        assert refused.status != 0
        assert 'no relay is named mars' in refused.out + refused.err
        assert await send() == 'main'
        routes.write_text(json.dumps([TENANT, REST]))
        done = await ops(env, 'control', 'reload', '--yes')
        assert done.status == 0, done.err
        assert await send() == 'us'
        assert (len(main.sessions), main.open_sessions) == (1, 1)  # kept, and of use again
