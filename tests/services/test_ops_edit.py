"""`ops edit`: the recipient corrected, by the rules of the desk, and written down as there."""

import pytest

from tests.services.ops_desk import insert, ops, rendered, run

SENT = {'status': 'sent', 'attempts': 1, 'sent_at': 'sql:now()'}
DEAD = {'status': 'failed', 'attempts': 1, 'dead_reason': 'rejected', 'last_error': '550'}


async def test_corrected_recipient_makes_it_due_and_stands_in_the_audit(env, pool):
    email_id = await insert(pool, **DEAD)
    given = await run(
        env,
        'edit',
        str(email_id),
        '--recipient',
        'hanna@example.org',
        '--reason',
        'a typo',
        '--yes',
    )
    row = await pool.fetchrow('SELECT status, recipient FROM outbound_emails')
    assert tuple(row) == ('pending', 'hanna@example.org')
    assert f'E-mail {email_id} goes to ***@example.org instead of ***@example.com.' in rendered(
        'edit', given
    )
    (entry,) = await pool.fetch('SELECT action, email_ids, details FROM mail_audit')
    assert (entry['action'], entry['email_ids']) == ('email.readdress', [email_id])
    assert entry['details'] == {
        'id': email_id, 'before': 'anna@example.com', 'after': 'hanna@example.org',
        'reason': 'a typo', 'at': 'ops',
    }  # fmt: skip


@pytest.mark.parametrize(
    ('row', 'recipient', 'what'),
    [
        (DEAD, 'no address', 'is not an e-mail address'),
        (DEAD, 'anna@example.com', 'that is its recipient already'),
        (SENT, 'b@example.com', 'it was sent at'),
        ({'status': 'sending'}, 'b@example.com', 'is sending it'),
        (DEAD, 'gone@example.com', 'on the list of those who get no mail'),
    ],
    ids=['no address', 'the same', 'sent', 'sending', 'suppressed'],
)  # fmt: skip
async def test_what_cannot_be_corrected_is_refused_and_nothing_is_changed(
    env, pool, row, recipient, what
):
    await pool.execute(
        'INSERT INTO email_suppressions (address, reason, source, created_by) '
        "VALUES ('gone@example.com', 'bounced', 'operator', 'lena')"
    )
    email_id = await insert(pool, **row)
    given = await run(env, 'edit', str(email_id), '--recipient', recipient, '--yes')
    assert given.exit_status == 2
    assert what in given.problems[0].what
    assert await pool.fetchval('SELECT recipient FROM outbound_emails') == 'anna@example.com'


async def test_unknown_e_mail_and_a_missing_answer_change_nothing(env, pool):
    assert (await run(env, 'edit', '99', '--recipient', 'b@example.com', '--yes')).exit_status == 2
    email_id = await insert(pool, **DEAD)
    asked = await ops(env, 'edit', str(email_id), '--recipient', 'b@example.com')
    assert (asked.status, 'give --yes' in asked.err) == (2, True)
    told = await ops(env, 'edit', str(email_id), '--recipient', 'b@example.com', '--dry-run')
    assert 'would go to ***@example.com' in told.out
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'failed'
    assert await pool.fetchval('SELECT count(*) FROM mail_audit') == 0
