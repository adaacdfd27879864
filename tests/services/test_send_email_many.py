"""An e-mail to more recipients than the relay takes at once: what its row tells, also of a worker that died."""

from jobs.send_email import send_email
from mail.outcome import Outcome
from mail.relays import Relays
from tests.unit.scripted_relay import ScriptedRelay
from tests.unit.test_deliver_many import THIRTY, LimitedRelay

RESCUED = """
UPDATE outbound_emails SET status = 'uncertain', next_retry_at = now(), claim_token = NULL, claimed_by = NULL,
    lease_expires_at = NULL WHERE id = $1
"""


async def test_thirty_recipients_at_a_relay_for_ten_are_sent_in_one_attempt(ctx, queue, row):
    async with LimitedRelay(10, '552 Too many recipients') as server:
        ctx['runtime'].relays = Relays([server.relay()])
        email_id = await queue(', '.join(THIRTY))
        assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'sent', 'attempts': 1}
    stored = await row(email_id)
    assert (stored['attempts'], stored['last_error']) == (1, None)
    assert {to: outcome for to, (outcome, _) in stored['recipient_outcomes'].items()} == dict.fromkeys(
        THIRTY, Outcome.ACCEPTED
    )
    assert server.got == list(THIRTY)


async def test_who_got_it_before_the_worker_died_gets_no_second_copy(ctx, pool, queue, row):
    class DyingRelay(LimitedRelay):
        async def _do(self, key, *rest):
            if key == 'MAIL' and self.bodies:  # the second transaction: as far as the row goes, the worker is gone
                await pool.execute(RESCUED, email_id)
            return await super()._do(key, *rest)

    async with DyingRelay(10, '552 Too many recipients') as dying, ScriptedRelay() as server:
        ctx['runtime'].relays = Relays([dying.relay()])
        email_id = await queue(', '.join(THIRTY))
        assert (await send_email(ctx, email_id))['status'] == 'lease-lost'
        ctx['runtime'].relays = Relays([server.relay()])
        assert (await send_email(ctx, email_id))['status'] == 'sent'
        assert server.recipients == list(THIRTY[10:])
