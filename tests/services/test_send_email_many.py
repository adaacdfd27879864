"""An e-mail to more recipients than the relay takes at once.

What its row tells, also of a worker that died.
"""

from db import results
from jobs.send_email import send_email
from mail.outcome import Outcome
from mail.route import Relays
from tests.unit.scripted_relay import ScriptedRelay
from tests.unit.test_deliver_many import THIRTY, LimitedRelay

RESCUED = """
UPDATE outbound_emails SET status = 'uncertain', next_retry_at = now(), claim_token = NULL,
    claimed_by = NULL,
    claimed_at = now(), lease_expires_at = NULL WHERE id = $1
"""


async def test_thirty_recipients_at_a_relay_for_ten_are_sent_in_one_attempt(ctx, queue, row):
    async with LimitedRelay(10, '552 Too many recipients') as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        email_id = await queue(', '.join(THIRTY))
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'sent',
            'attempts': 1,
        }
    stored = await row(email_id)
    assert (stored['attempts'], stored['last_error']) == (1, None)
    assert {
        to: outcome for to, (outcome, _) in stored['recipient_outcomes'].items()
    } == dict.fromkeys(THIRTY, Outcome.ACCEPTED)
    assert server.got == list(THIRTY)


async def test_who_got_it_before_the_worker_died_gets_no_second_copy(ctx, pool, queue, row):
    class DyingRelay(LimitedRelay):
        async def _do(self, key, *rest):
            if (
                key == 'MAIL' and self.bodies
            ):  # the second transaction: as far as the row goes, the worker is gone
                await pool.execute(RESCUED, email_id)
            return await super()._do(key, *rest)

    async with DyingRelay(10, '552 Too many recipients') as dying, ScriptedRelay() as server:
        ctx['runtime'].tunables.relays = Relays([dying.relay()])
        email_id = await queue(', '.join(THIRTY))
        assert (await send_email(ctx, email_id))['status'] == 'lease-lost'
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        assert (await send_email(ctx, email_id))['status'] == 'sent'
        assert server.recipients == list(THIRTY[10:])


async def test_who_got_it_is_kept_only_under_the_current_claim_and_with_a_whole_lease(
    ctx, pool, queue, row
):
    runtime = ctx['runtime']
    email_id = await queue(', '.join(THIRTY[:2]))
    claim = await runtime.claimer.claim_one(email_id)
    known = {THIRTY[0]: (Outcome.ACCEPTED, '250 ok \0')}
    await pool.execute('UPDATE outbound_emails SET lease_expires_at = now()')
    await results.keep_recipients(pool, claim, known, 30.0)
    stored = await row(email_id)
    assert stored['recipient_outcomes'] == {
        THIRTY[0]: ['accepted', '250 ok \N{REPLACEMENT CHARACTER}']
    }
    assert stored['status'] == 'sending'
    assert await pool.fetchval(
        "SELECT lease_expires_at > now() + interval '25 s' FROM outbound_emails"
    )
    await pool.execute(
        'UPDATE outbound_emails SET claim_token = gen_random_uuid(), recipient_outcomes = NULL'
    )
    await results.keep_recipients(pool, claim, known, 30.0)
    assert (await row(email_id))['recipient_outcomes'] is None


async def test_mail_goes_on_when_who_got_it_cannot_be_kept(ctx, queue, monkeypatch):
    async def away(*_):
        raise OSError('PostgreSQL is away')

    monkeypatch.setattr('db.results.keep_recipients', away)
    async with LimitedRelay(10, '552 Too many recipients') as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        assert (await send_email(ctx, await queue(', '.join(THIRTY))))['status'] == 'sent'
    assert server.got == list(THIRTY)
