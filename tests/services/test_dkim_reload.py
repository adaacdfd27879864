"""DKIM keys of a running worker: read at the start, and again when an operator says so."""

import json

from mail.signing.keys import Algorithm
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.dkim_keys import new_key
from tests.services.ops_desk import ops


async def test_keys_stay_until_reloaded_and_wrong_ones_are_refused(
    start_worker, env, pool, inbox, tmp_path
):
    key = tmp_path / 'key.pem'
    key.touch(0o600)
    key.write_bytes(new_key(Algorithm.ED25519))
    entry = {'domain': 'example.com', 'selector': 'one', 'key_file': str(key)}
    dotenv = tmp_path / 'keys.json'
    dotenv.write_text(json.dumps([entry]))
    await start_worker(DKIM_KEYS_FILE=str(dotenv), SMTP_FROM_EMAIL='shop@example.com').started()

    async def selector_of(subject):
        async with pool.acquire() as conn:
            await queue_email(
                conn, recipient='anna@example.net', subject=subject, body_text='x', notify=True
            )

        def of_it():
            found = [inbox.message(entry) for entry in inbox.accepted()]
            return [message for message in found if f'Subject: {subject}\r\n'.encode() in message]

        await wait_until(of_it)
        (message,) = of_it()
        return message.partition(b' s=')[2].partition(b';')[0].decode()

    assert await selector_of('first') == 'one'
    key.unlink()
    assert await selector_of('second') == 'one'
    refused = await ops(env, 'control', 'reload_relays', '--yes')
    assert refused.status != 0
    assert 'example.com (one)' in refused.out + refused.err
    assert await selector_of('third') == 'one'
    key.touch(0o600)
    key.write_bytes(new_key(Algorithm.RSA))
    dotenv.write_text(json.dumps([entry | {'selector': 'two'}]))
    reloaded = await ops(env, 'control', 'reload_relays', '--yes')
    assert reloaded.status == 0, reloaded.err
    assert await selector_of('fourth') == 'two'


async def test_worker_with_a_missing_key_does_not_start_and_says_which(start_worker, tmp_path):
    entry = {'domain': 'example.com', 'selector': 'one', 'key_file': str(tmp_path / 'gone')}
    worker = start_worker(DKIM_KEYS=json.dumps([entry]))
    assert await worker.ended() != 0
    assert 'settings: DKIM_KEYS: example.com (one)' in worker.log
    assert 'Traceback' not in worker.log
