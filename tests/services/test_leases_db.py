import asyncio
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

import delivery.beat
from db import claims, results
from db.claimed import Claim
from db.late import record_beside_row
from db.leases import MAX_LOST_ATTEMPTS, Contact, Rescued, renew, rescue
from db.narrowing import SetAside
from db.results import Result
from delivery.leases import Leases
from mail.outcome import Decision, Delivery, Outcome, Phase, Reply, Status
from mail.route import Relays
from tests.services.test_rows_that_break import REFUSE

WHO = {'worker': 'w1@host:1', 'lease_s': 30, 'message_id_domain': 'example.com'}
DEFERRED = Delivery(Outcome.DEFERRED, Phase.RCPT, 'primary', Reply(451, '4.7.1 later'))
ACCEPTED = Delivery(Outcome.ACCEPTED, Phase.REPLIED, 'primary', Reply(250, '2.0.0 ok'))
HOLD = ['receipt']


async def claim_one(pool: Any, email_id: int) -> Claim:
    await pool.execute('UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1', email_id)
    claimed = await claims.claim(pool, [email_id], **WHO)
    for lost_attempts in (1, 2):
        claimed = claimed or await claims.claim_suspects(pool, lost_attempts, 1, **WHO)
    (claim,) = claimed
    assert claim.email.id == email_id
    return claim


async def lose_lease(pool: Any, *email_ids: int) -> None:
    await pool.execute(
        (
            "UPDATE outbound_emails SET lease_expires_at = now() - interval '1 second' WHERE "
            'id = ANY($1)'
        ),
        email_ids,
    )


async def test_renew_extends_every_own_claim_and_no_other(pool, queue, row):
    mine, also_mine, anothers = [await queue() for _ in range(3)]
    kept = [await claim_one(pool, email_id) for email_id in (mine, also_mine)]
    await claim_one(pool, anothers)
    before = await row(anothers)
    assert await renew(pool, [claim.key for claim in kept], 300) == set()
    for email_id in (mine, also_mine):
        stored = await row(email_id)
        assert 290 < (stored['lease_expires_at'] - stored['claimed_at']).total_seconds() < 320
    assert await row(anothers) == before


async def test_renew_reports_what_is_lost_and_does_not_touch_it(pool, queue, row):
    ids = [await queue() for _ in range(5)]
    kept, rescued, taken_back, recorded, taken_over = [
        await claim_one(pool, email_id) for email_id in ids
    ]
    await lose_lease(pool, ids[1])
    await rescue(pool, [])
    await pool.execute("UPDATE outbound_emails SET status = 'pending' WHERE id = $1", ids[2])
    await results.record(pool, [Result(recorded, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w')
    await pool.execute('UPDATE outbound_emails SET claim_token = $2 WHERE id = $1', ids[4], uuid4())
    before = [await row(email_id) for email_id in ids[1:]]
    never_made = (4711, uuid4())
    asked = [claim.key for claim in (kept, rescued, taken_back, recorded, taken_over)]
    lost = await renew(pool, [*asked, never_made], 30)
    assert lost == {*asked[1:], never_made}
    assert [await row(email_id) for email_id in ids[1:]] == before


async def test_renew_does_not_wait_for_a_row_that_is_being_recorded(pool, queue):
    email_id = await queue()
    claim = await claim_one(pool, email_id)
    async with pool.acquire() as other, other.transaction():
        await other.execute('SELECT FROM outbound_emails WHERE id = $1 FOR UPDATE', email_id)
        assert await asyncio.wait_for(renew(pool, [claim.key], 30), 20) == set()


async def test_rescue_makes_mail_uncertain_and_due_and_records_the_lost_attempt(pool, queue, row):
    email_id = await queue(max_attempts=1)
    claim = await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    assert await rescue(pool, HOLD) == [Rescued(email_id, 'w1@host:1', 'uncertain', due=True)]
    stored = await row(email_id)
    assert (stored['status'], stored['attempts'], stored['max_attempts']) == ('uncertain', 1, 2)
    assert (stored['claim_token'], stored['claimed_by'], stored['lease_expires_at']) == (
        None,
        None,
        None,
    )
    assert 'w1@host:1' in stored['last_error']
    (attempt,) = await pool.fetch('SELECT * FROM email_attempts')
    assert (attempt['email_id'], attempt['attempt'], attempt['worker'], attempt['outcome']) == (
        email_id, 1, 'w1@host:1', 'lost',
    )  # fmt: skip
    assert attempt['started_at'] == claim.claimed_at
    (again,) = await claims.claim_suspects(pool, 1, 5, **WHO)
    assert (again.attempt, again.email.message_id) == (2, claim.email.message_id)


async def test_suspects_are_claimed_by_their_losses_and_not_among_others(pool, queue):
    ids = [await queue() for _ in range(3)]
    await claims.claim(pool, ids, **WHO)
    await lose_lease(pool, *ids)
    await rescue(pool, HOLD)
    assert await claims.claim(pool, ids, **WHO) == []
    assert await claims.claim_due(pool, 10, **WHO) == []
    assert await claims.claim_suspects(pool, 2, 5, **WHO) == []
    batches = await asyncio.gather(*(claims.claim_suspects(pool, 1, 2, **WHO) for _ in range(5)))
    assert sorted(claim.email.id for batch in batches for claim in batch) == ids


async def test_rescue_leaves_max_attempts_alone_when_some_are_left(pool, queue, row):
    email_id = await queue(max_attempts=3)
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    await rescue(pool, HOLD)
    assert (await row(email_id))['max_attempts'] == 3


async def test_rescue_of_a_hold_type_waits_for_an_operator(pool, queue, row):
    email_id = await queue(email_type='receipt', max_attempts=1)
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    assert await rescue(pool, HOLD) == [Rescued(email_id, 'w1@host:1', 'uncertain', due=False)]
    stored = await row(email_id)
    assert (stored['status'], stored['next_retry_at'], stored['max_attempts']) == (
        'uncertain',
        None,
        1,
    )
    assert await claims.claim_due(pool, 5, **WHO) == []


async def test_third_loss_in_a_row_is_poison_and_nothing_else_suffers(pool, queue, row):
    poison, bystander = await queue(), await queue()
    for loss in range(1, MAX_LOST_ATTEMPTS + 1):
        await claim_one(pool, poison)
        if loss == MAX_LOST_ATTEMPTS:
            await claim_one(pool, bystander)
        await lose_lease(pool, poison, bystander)
        rescued = {r.email_id: r for r in await rescue(pool, HOLD)}
        assert rescued[poison].due is (loss < MAX_LOST_ATTEMPTS)
    stored = await row(poison)
    assert (stored['status'], stored['dead_reason'], stored['next_retry_at'],
        stored['attempts']) == (
        'failed', 'poison', None, 3,
    )  # fmt: skip
    assert (await row(bystander))['status'] == 'uncertain'
    assert await pool.fetchval("SELECT count(*) FROM email_attempts WHERE outcome = 'lost'") == 4


@pytest.mark.parametrize(('delivery', 'decision'), [
    (DEFERRED, Decision(Status.FAILED, 0.0)),
    (Delivery(Outcome.RELEASED, Phase.CONNECT), Decision(Status.PENDING, 0.0, counts=False)),
])  # fmt: skip
async def test_attempt_that_was_recorded_ends_the_row_of_losses(
    pool, queue, row, delivery, decision
):
    email_id = await queue(max_attempts=9)
    for _ in range(MAX_LOST_ATTEMPTS - 1):
        await claim_one(pool, email_id)
        await lose_lease(pool, email_id)
        await rescue(pool, HOLD)
    claim = await claim_one(pool, email_id)
    assert await results.record(pool, [Result(claim, delivery, decision, 0.1)], worker='w')
    for _ in range(MAX_LOST_ATTEMPTS - 1):
        await claim_one(pool, email_id)
        await lose_lease(pool, email_id)
        await rescue(pool, HOLD)
    stored = await row(email_id)
    assert (stored['status'], stored['dead_reason']) == ('uncertain', None)


async def test_rescue_does_not_touch_a_live_lease(pool, queue, row):
    email_id = await queue()
    await claim_one(pool, email_id)
    before = await row(email_id)
    assert await rescue(pool, HOLD) == []
    assert await row(email_id) == before


async def test_rescue_by_several_workers_at_once_handles_each_row_once(pool, queue):
    ids = [await queue() for _ in range(40)]
    await claims.claim(pool, ids, **WHO)
    await lose_lease(pool, *ids)
    batches = await asyncio.gather(*(rescue(pool, HOLD) for _ in range(5)))
    assert sorted(r.email_id for batch in batches for r in batch) == ids
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 40
    assert await pool.fetchval('SELECT max(lost_attempts) FROM outbound_emails') == 1


async def test_record_after_rescue_changes_nothing(pool, queue, row):
    email_id = await queue()
    claim = await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    await rescue(pool, HOLD)
    before = await row(email_id)
    assert (
        await results.record(
            pool, [Result(claim, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w'
        )
        == set()
    )
    assert await row(email_id) == before
    again = await claim_one(pool, email_id)
    assert (
        await results.record(
            pool, [Result(claim, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w'
        )
        == set()
    )
    assert await results.record(
        pool, [Result(again, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w'
    ) == {again.key}


async def test_row_that_refuses_the_rescue_stops_the_rescue_of_no_other(pool, queue, row):
    ids = [await queue() for _ in range(9)]
    await claims.claim(pool, ids, **WHO)
    await lose_lease(pool, *ids)
    await pool.execute(
        REFUSE.format(
            f"IF NEW.id = {ids[4]} AND NEW.lost_attempts > 0 THEN RAISE 'not me'; END IF;"
        )
    )
    rescued = await rescue(pool, HOLD)
    assert sorted(r.email_id for r in rescued) == [i for i in ids if i != ids[4]]
    stored = await row(ids[4])
    assert (stored['status'], stored['next_retry_at'], stored['dead_reason']) == (
        'uncertain',
        None,
        'refused',
    )


@pytest.mark.parametrize(
    'change',
    [
        'lost_attempts = 32767',
        'attempts = 2147483647, max_attempts = 2147483647',
        'claimed_at = NULL',
        "claimed_at = 'infinity'",
        "claimed_by = repeat('w', 1000000)",
    ],
)
async def test_rescue_takes_a_row_with_an_odd_value_and_all_others(pool, queue, change):
    ids = [await queue() for _ in range(3)]
    await claims.claim(pool, ids, **WHO)
    await lose_lease(pool, *ids)
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', ids[1])
    assert sorted(r.email_id for r in await rescue(pool, HOLD)) == ids


async def test_rescue_of_an_attempt_that_is_on_record_leaves_the_record(pool, queue, row):
    email_id = await queue()
    claim = await claim_one(pool, email_id)
    result = Result(claim, ACCEPTED, Decision(Status.SENT), 0.1)
    await record_beside_row(pool, result, RuntimeError('a rule'), worker='w')
    await lose_lease(pool, email_id)
    assert await rescue(pool, HOLD) == [Rescued(email_id, 'w1@host:1', 'sent', due=False)]
    assert (await row(email_id))['sent_at'] == claim.claimed_at
    assert await pool.fetchval('SELECT outcome FROM email_attempts') == 'accepted'


def contact(**seen: Any) -> Contact:
    return Contact(5.0, 8.0, **seen)


async def test_rescue_by_a_worker_that_the_server_answered_at_once_begins_at_once(pool, queue):
    """Where workers are killed every second, none lives until its grace is over."""
    email_id = await queue()
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    first = contact(answered_at_once=True)
    assert [r.email_id for r in await rescue(pool, HOLD, None, first)] == [email_id]


async def test_rescue_by_a_worker_that_waited_for_the_server_waits_for_the_living(pool, queue):
    email_id = await queue()
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    first = contact()
    assert await rescue(pool, HOLD, None, first) == []
    assert first.quiet_until - first.seen_at == timedelta(seconds=8)
    assert await rescue(pool, HOLD, None, first) == []
    first.quiet_until = first.seen_at
    assert [r.email_id for r in await rescue(pool, HOLD, None, first)] == [email_id]


async def test_rescue_that_a_frozen_server_runs_later_takes_nothing_and_the_next_waits(pool, queue):
    email_id = await queue()
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    now = await pool.fetchval('SELECT now()')
    frozen = contact(seen_at=now - timedelta(seconds=40), quiet_until=now - timedelta(hours=1))
    assert await rescue(pool, HOLD, None, frozen) == []
    assert frozen.quiet_until - frozen.seen_at == timedelta(seconds=8)
    assert await rescue(pool, HOLD, None, frozen) == []


async def test_rescue_of_the_dead_waits_for_nobody_while_the_server_answers(pool, queue):
    email_id = await queue()
    await claim_one(pool, email_id)
    await lose_lease(pool, email_id)
    now = await pool.fetchval('SELECT now()')
    usual = contact(seen_at=now - timedelta(seconds=2), quiet_until=now - timedelta(hours=1))
    assert [r.email_id for r in await rescue(pool, HOLD, None, usual)] == [email_id]


async def test_renewal_that_failed_is_tried_again_before_anything_is_rescued(monkeypatch):
    asked: list[str] = []

    async def renew(*_: Any) -> set[Any]:
        asked.append('renew')
        if asked.count('renew') < 3:
            raise ConnectionResetError('away')
        return set()

    async def rescue(*_: Any) -> list[Any]:
        asked.append('rescue')
        raise asyncio.CancelledError

    monkeypatch.setattr(delivery.beat, 'renew', renew)
    monkeypatch.setattr(delivery.beat, 'rescue', rescue)
    leases = Leases(30)
    leases._until[1, uuid4()] = 0.0
    monkeypatch.setattr(delivery.beat, 'RESCUE_EVERY_S', 0.01)
    with pytest.raises(asyncio.CancelledError):
        await delivery.beat.beat(
            cast('Any', None),
            leases,
            Relays([]),
            stopping=asyncio.Event(),
            every_s=0.0,
            hold_types=(),
            suspects_wanted=asyncio.Event(),
            tell_others=cast('Any', None),
            set_aside=SetAside(),
        )
    assert asked == ['renew', 'renew', 'renew', 'rescue']
