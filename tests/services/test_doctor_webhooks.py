"""The doctor tells of webhooks that fail."""

from db.webhook_deliveries import give_up_deliveries
from db.webhooks import NewWebhook, add_webhook
from tests.services.ops_desk import insert, run


async def test_doctor_names_what_fails_is_disabled_and_was_given_up(env, pool, redis):
    fine = await run(env, 'doctor', 'webhooks')
    assert fine.document['findings'] == []
    for number in range(3):
        new = NewWebhook(f'https://{number}.example/', 'whsec_c2VjcmV0', None, None, None, 'tests')
        await add_webhook(pool, new)
    await insert(pool)
    await pool.execute(
        "UPDATE mail_webhooks SET failing_since = now(), last_error = 'it answered 500' "
        'WHERE id = 1'
    )
    await pool.execute(
        "UPDATE mail_webhooks SET enabled = false, disabled_reason = 'they move' WHERE id = 2"
    )
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET dead_at = now() - interval '1 hour' "
        'WHERE webhook_id = 3'
    )
    await give_up_deliveries(pool)
    given = await run(env, 'doctor', 'webhooks')
    found = [(row['severity'], row['what']) for row in given.document['findings']]
    assert [severity for severity, _ in found] == ['error', 'warning', 'note']
    assert '1 event given up, and not replayed' in found[0][1]
    assert '1 event waiting: it answered 500' in found[1][1]
    assert 'is disabled: they move' in found[2][1]
    assert given.exit_status == 1
