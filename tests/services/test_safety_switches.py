"""Safety switches of a real worker: what becomes of mail, and who says that they are on."""

import pytest

from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.ops_desk import ops


async def queue_all(pool, *recipients):
    async with pool.acquire() as conn:
        return [
            await queue_email(
                conn, recipient=recipient, subject='Hi', body_text='Hello', notify=True
            )
            for recipient in recipients
        ]


async def row(pool, email_id):
    return await pool.fetchrow('SELECT * FROM outbound_emails WHERE id = $1', email_id)


def reaches(pool, email_id, status):
    async def there():
        return (await row(pool, email_id))['status'] == status

    return wait_until(there)


async def test_dry_run_sends_nothing_and_everybody_says_so(start_worker, env, pool, inbox):
    await start_worker(DRY_RUN='true').started()
    (email_id,) = await queue_all(pool, 'anna@example.com')
    await reaches(pool, email_id, 'cancelled')
    stored = await row(pool, email_id)
    assert (stored['attempts'], stored['sent_at'], stored['next_retry_at']) == (0, None, None)
    assert stored['last_error'].startswith('dry run (DRY_RUN)')
    assert inbox.accepted() == []

    status = await ops(env, 'status', '--json')
    assert [p['level'] for p in status.document['troubles'] if p['kind'] == 'safety_switch'] == [
        'act'
    ]
    assert status.status == 1
    doctor = (await ops(env, 'doctor', '--json')).document
    assert [f for f in doctor['findings'] if 'DRY_RUN is on' in f['what']]
    explained = (await ops(env, 'explain', str(email_id), '--json')).document
    said = [reason['what'] for reason in explained['because']]
    assert said[0] == 'DRY_RUN is on: messages are made and handed to no relay.'
    assert said[1].startswith('dry run (DRY_RUN)')


async def test_worker_says_at_its_start_which_are_on(start_worker):
    on = await start_worker(DRY_RUN='true', SOFT_BOUNCE='true').started()
    off = await start_worker().started()
    [event] = [e for e in on.events() if e['event'] == 'safety_switches.on']
    assert (event['level'], event['switches']) == ('warning', ['DRY_RUN', 'SOFT_BOUNCE'])
    assert not [e for e in off.events() if e['event'] == 'safety_switches.on']


async def test_what_a_dry_run_withheld_is_sent_by_a_retry_without_it(
    start_worker, env, pool, inbox
):
    rehearsal = await start_worker(DRY_RUN='true').started()
    (email_id,) = await queue_all(pool, 'anna@example.com')
    await reaches(pool, email_id, 'cancelled')
    rehearsal.stop()
    await start_worker().started()
    assert (await ops(env, 'retry', str(email_id), '--yes')).status == 0
    await reaches(pool, email_id, 'sent')
    assert len(inbox.accepted()) == 1


async def test_override_and_suppression(start_worker, env, pool, inbox):
    await pool.execute(
        "INSERT INTO email_suppressions (address, reason) VALUES ('bob@example.net', 'left')"
    )
    await start_worker(OVERRIDE_RECIPIENTS='qa@example.org').started()
    (email_id,) = await queue_all(pool, 'anna@example.com, bob@example.net')
    await reaches(pool, email_id, 'sent')
    (entry,) = inbox.accepted()
    assert entry['rcpt_to'] == ['qa@example.org']
    assert b'X-Original-Recipients: anna@example.com\r\n' in inbox.message(entry)


async def test_only_allowed_domains_get_mail(start_worker, env, pool, inbox):
    await start_worker(ALLOWED_RECIPIENT_DOMAINS='example.com').started()
    both, none = await queue_all(pool, 'anna@example.com, bob@example.net', 'bob@example.net')
    await reaches(pool, both, 'sent')
    await reaches(pool, none, 'cancelled')
    assert [entry['rcpt_to'] for entry in inbox.accepted()] == [['anna@example.com']]
    assert 'ALLOWED_RECIPIENT_DOMAINS' in (await row(pool, none))['last_error']
    assert 'ALLOWED_RECIPIENT_DOMAINS' in str((await row(pool, both))['recipient_outcomes'])


async def test_soft_bounce_tries_again_what_was_refused_for_good(start_worker, pool):
    await start_worker(SOFT_BOUNCE='true').started()
    (email_id,) = await queue_all(pool, 'anna+5xx-rcpt@example.com')
    await reaches(pool, email_id, 'failed')
    stored = await row(pool, email_id)
    assert stored['dead_reason'] is None
    assert stored['next_retry_at'] is not None
    assert stored['smtp_code'] // 100 == 5


async def test_refusal_of_who_gets_mail_instead_suppresses_nobody(start_worker, pool):
    await start_worker(OVERRIDE_RECIPIENTS='qa+5xx-rcpt@example.org').started()
    one, several = await queue_all(pool, 'anna@example.com', 'anna@example.com, bob@example.com')
    for email_id in (one, several):
        await reaches(pool, email_id, 'failed')
        assert '5.1.1' in (await row(pool, email_id))['last_error']
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


async def test_soft_bounce_suppresses_nobody(start_worker, pool):
    await start_worker(SOFT_BOUNCE='true').started()
    one, both = await queue_all(
        pool, 'anna+5xx-rcpt@example.com', 'anna+5xx-rcpt@example.com, bob@example.com'
    )
    for email_id in (one, both):
        await reaches(pool, email_id, 'failed')
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


@pytest.mark.parametrize(
    ('switches', 'ends', 'went_to'),
    [
        ({'OVERRIDE_RECIPIENTS': 'qa@example.org', 'DRY_RUN': 'true'}, 'cancelled', []),
        (
            {'OVERRIDE_RECIPIENTS': 'qa@example.org', 'ALLOWED_RECIPIENT_DOMAINS': 'example.net'},
            'sent',
            [['qa@example.org']],
        ),
        (
            {'OVERRIDE_RECIPIENTS': 'qa+5xx-rcpt@example.org', 'SOFT_BOUNCE': 'true'},
            'failed',
            [],
        ),
        ({'ALLOWED_RECIPIENT_DOMAINS': 'example.net', 'SOFT_BOUNCE': 'true'}, 'cancelled', []),
    ],
)
async def test_switches_together(start_worker, pool, inbox, switches, ends, went_to):
    await start_worker(**switches).started()
    (email_id,) = await queue_all(pool, 'anna@example.com')
    await reaches(pool, email_id, ends)
    assert [entry['rcpt_to'] for entry in inbox.accepted()] == went_to
    stored = await row(pool, email_id)
    assert (stored['dead_reason'], stored['next_retry_at'] is None) == (None, ends != 'failed')
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0
