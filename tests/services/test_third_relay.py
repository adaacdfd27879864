"""A third relay, which the configuration alone names: mail, switches and doctor know it."""

import json

from tests.conftest import wait_until
from tests.services.ops_desk import insert, ops
from tests.unit.scripted_relay import ScriptedRelay


async def test_third_relay_is_worked_with_as_the_others_are(start_worker, env, pool, redis, inbox):
    async def queue():
        email_id = await insert(pool)
        await redis.enqueue_job('send_email', email_id)
        return email_id

    async def relay_of(email_id):
        return await pool.fetchval('SELECT relay FROM outbound_emails WHERE id = $1', email_id)

    async with ScriptedRelay({'QUIT': '221 2.0.0 bye'}) as third:
        entry = {'name': 'eu', 'host': '127.0.0.1', 'port': third.port, 'use_tls': False}
        variables = {'SMTP_RELAYS': json.dumps([entry])}
        env = env | variables
        for name in ('primary', 'backup'):
            inbox.control.listen(name, on=False)
        await start_worker(**variables).started()
        first = await queue()
        await wait_until(lambda: relay_of(first))
        assert await relay_of(first) == 'eu'
        assert third.recipients == ['anna@example.com']

        paused = await ops(env, 'relay', 'pause', 'eu', '--yes')
        assert paused.status == 0, paused.err
        listed = (await ops(env, 'relay', 'ls', '--json')).document
        states = {relay['name']: relay['state'] for relay in listed['relays']}
        assert (states.keys(), states['eu']) == ({'primary', 'backup', 'eu'}, 'paused')
        for name in ('primary', 'backup'):
            inbox.control.listen(name, on=True)
        second = await queue()
        await wait_until(lambda: relay_of(second))
        assert await relay_of(second) in ('primary', 'backup')
        doctor = (await ops(env, 'doctor', 'relays', '--json')).document
        assert [f['what'] for f in doctor['findings'] if 'relay eu' in f['what']] == []
        # Doctor's alone; the worker's own goodbye may come at any time.
        assert 'NOOP' in third.verbs
