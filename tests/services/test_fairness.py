"""A tenant with much mail does not keep the others waiting, whatever the order of coming."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from db.fairness import MAX_JUMPS, Tenants, Turn, claim_in_turns, claim_one_of_each
from jobs.process_pending_emails import process_pending_emails
from mail.priority import HIGH, LOW, NORMAL
from tests.conftest import wait_until
from tests.services.test_urgent import full

WHO: Any = {'worker': 'w', 'lease_s': 30, 'message_id_domain': 'example.com'}
MANY_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, organization_id, priority,
    next_retry_at)
SELECT COALESCE($1::bigint::text, 'nobody') || '-' || n || '@example.com', 'Hello', 'Hello', $1, $3,
    now() + $4 * interval '1 second' + n * interval '1 microsecond'
FROM generate_series(1, $2::int) AS n
"""


@pytest.fixture
def have(pool: Any) -> Any:
    """Give a tenant due e-mails; those of the one who is called last are due last."""
    called = 0

    async def have(
        tenant: int | None, count: int, priority: int = NORMAL, due_in_s: float = -3600
    ) -> None:
        nonlocal called
        called += 1
        await pool.execute(MANY_SQL, tenant, count, priority, due_in_s + called)

    return have


def senders(inbox: Any) -> list[str]:
    """Return the tenant of each e-mail, in the order in which they were accepted."""
    return [entry['rcpt_to'][0].partition('-')[0] for entry in inbox.accepted()]


def tenants_of(claims: list[Any]) -> dict[str, int]:
    return dict(Counter(claim.email.recipient.partition('-')[0] for claim in claims))


async def test_nobody_has_a_turn_where_one_tenant_has_all_due_mail(pool, have):
    assert await Tenants().next_turn(pool, 100) is None
    await have(1, 50)
    await have(2, 5, due_in_s=3600)
    assert await Tenants().next_turn(pool, 100) is None


async def test_each_tenant_with_due_mail_has_its_turn_and_mail_of_none_is_a_tenants(pool, have):
    for tenant in (1, None, 30, 4):
        await have(tenant, 3)
    await have(5, 3, due_in_s=3600)
    assert await Tenants().next_turn(pool, 100) == Turn(NORMAL, ['-', '1', '30', '4'])


async def test_turn_is_of_the_first_priority_that_has_due_mail(pool, have):
    await have(1, 3, LOW)
    await have(2, 3, LOW)
    assert await Tenants().next_turn(pool, 100) == Turn(LOW, ['1', '2'])
    await have(3, 1, HIGH)
    await have(4, 1, HIGH)
    assert await Tenants().next_turn(pool, 100) == Turn(HIGH, ['3', '4'])


@pytest.mark.parametrize('limit', [10, MAX_JUMPS, 500])
async def test_every_one_of_many_tenants_has_its_turn(pool, have, limit):
    for tenant in range(150):
        await have(tenant, 2)
    tenants, seen = Tenants(), []
    turns = -(-150 // min(limit, MAX_JUMPS))
    for _ in range(turns):
        turn = await tenants.next_turn(pool, limit)
        assert len(turn.tenants) <= min(limit, MAX_JUMPS)
        seen += turn.tenants
    assert sorted(seen, key=int) == [str(tenant) for tenant in range(150)]


async def test_many_tenants_whose_mail_waits_for_its_time_hide_nobody(pool, have):
    for tenant in range(100, 100 + MAX_JUMPS + 10):
        await have(tenant, 1, due_in_s=3600)
    await have(1, 100)
    await have(999, 1)
    tenants, seen = Tenants(), set()
    for _ in range(2):
        if turn := await tenants.next_turn(pool, 100):
            seen |= {*turn.tenants}
    assert '999' in seen


async def test_claim_in_turns_takes_equal_shares(pool, have):
    await have(1, 500)
    await have(2, 500)
    await have(3, 500)
    claims = await claim_in_turns(pool, 90, Turn(NORMAL, ['1', '2', '3']), **WHO)
    assert tenants_of(claims) == {'1': 30, '2': 30, '3': 30}


async def test_claim_in_turns_fills_up_with_what_is_due_longest(pool, have):
    await have(1, 500)
    await have(2, 3)
    claims = await claim_in_turns(pool, 90, Turn(NORMAL, ['1', '2']), **WHO)
    assert tenants_of(claims) == {'1': 87, '2': 3}
    assert len({claim.email.id for claim in claims}) == 90


async def test_claim_in_turns_leaves_low_priority_behind_all_other_mail(pool, have):
    await have(2, 500, LOW)
    await have(1, 500)
    await have(3, 1)
    claims = await claim_in_turns(pool, 50, Turn(NORMAL, ['1', '3']), **WHO)
    assert tenants_of(claims) == {'1': 49, '3': 1}


async def test_claim_in_turns_leaves_out_what_claim_due_leaves_out(pool, have):
    await have(1, 10)
    await have(2, 10)
    await pool.execute(
        "UPDATE outbound_emails SET expires_at = now() - interval '1 s' WHERE organization_id = 2"
    )
    turn = Turn(NORMAL, ['1', '2'])
    assert tenants_of(await claim_in_turns(pool, 50, turn, **WHO)) == {'1': 10}
    await pool.execute(
        "UPDATE outbound_emails SET expires_at = NULL, email_type = 'news' "
        'WHERE organization_id = 2'
    )
    assert await claim_in_turns(pool, 50, turn, paused_types=['news'], **WHO) == []
    assert tenants_of(await claim_one_of_each(pool, 50, turn, **WHO)) == {'2': 1}


async def test_single_email_goes_out_with_the_batch_after_the_one_under_way(ctx, pool, have, inbox):
    await have(1, 1000)
    await have(2, 1, due_in_s=-60)
    await process_pending_emails(ctx)
    order = senders(inbox)
    assert len(order) == 1001
    assert order.index('2') < 2 * ctx['runtime'].claimer.concurrency.size + 100


async def test_single_email_does_not_wait_behind_the_jobs_of_another_tenant(
    ctx, runtime, have, inbox
):
    await have(1, 50)
    await have(2, 1, due_in_s=-60)
    with full(runtime):
        sending = asyncio.create_task(runtime.sweeper.keep_sending_urgent())

        def another_look() -> bool:
            runtime.signals.urgent_wanted.set()  # as each look at a queue that is too long does
            return '2' in senders(inbox)

        await wait_until(another_look)
        assert Counter(senders(inbox))['1'] < 50
        sending.cancel()


async def test_tenants_take_no_more_than_half_of_what_is_kept_for_urgent_mail(runtime, have):
    for tenant in range(40):
        await have(tenant, 3)
    kept = runtime.claimer.concurrency.kept
    await runtime.sweeper.send_one_of_each_tenant()
    await runtime.sweeper.send_one_of_each_tenant()
    assert len(runtime.sweeper.urgent) == (kept + 1) // 2
    await asyncio.gather(*runtime.sweeper.urgent)
