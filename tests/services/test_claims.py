import asyncio
from uuid import uuid4

import asyncpg
import pytest

from db import claims, results
from db.due import give_due_time
from db.results import Result
from mail.outcome import Decision, Delivery, Outcome, Phase, Reply, Status, decide

WHO = {'worker': 'w1@host:1', 'lease_s': 30, 'message_id_domain': 'example.com'}
ACCEPTED = Delivery(Outcome.ACCEPTED, Phase.REPLIED, 'primary', Reply(250, '2.0.0 queued as 4711'))


async def test_claim_commits_attempt_token_worker_and_lease(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    stored = await row(email_id)
    assert (stored['status'], stored['attempts'], stored['claimed_by']) == (
        'sending',
        1,
        'w1@host:1',
    )
    assert stored['claim_token'] == claim.token
    assert 29 < (stored['lease_expires_at'] - stored['claimed_at']).total_seconds() <= 30
    assert claim.email.message_id == stored['message_id']
    assert stored['message_id'].endswith('@example.com>')


async def test_claim_of_a_row_with_only_the_old_columns_fills_the_rest(pool, row):
    email_id = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type, '
        'status, attempts, '
        'max_attempts, next_retry_at, expires_at) VALUES '
        "('a@example.com', 's', 't', NULL, 'reset', 'pending', 0, 3, NULL, NULL) RETURNING id"
    )
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    assert claim.email.message_id.startswith('<')
    assert claim.email.message_date is not None


async def test_claim_keeps_message_id_and_date_over_attempts(pool, queue):
    email_id = await queue()
    (first,) = await claims.claim(pool, [email_id], **WHO)
    await results.record(
        pool,
        [Result(first, Delivery(Outcome.DEFERRED, Phase.RCPT), Decision(Status.FAILED, 0.0), 0.1)],
        worker='w',
    )
    (second,) = await claims.claim(pool, [email_id], **WHO)
    assert second.attempt == 2
    assert (first.email.message_id, first.email.message_date) == (
        second.email.message_id,
        second.email.message_date,
    )


@pytest.mark.parametrize('workers', [2, 8])
async def test_claim_by_several_workers_at_once_has_one_winner(pool, queue, workers):
    email_id = await queue()
    results = await asyncio.gather(*(claims.claim(pool, [email_id], **WHO) for _ in range(workers)))
    assert sum(len(claimed) for claimed in results) == 1


@pytest.mark.parametrize(
    'change',
    [
        "status = 'sent', sent_at = now()",
        "status = 'cancelled'",
        "status = 'expired'",
        "status = 'failed', next_retry_at = NULL",
        "status = 'uncertain', next_retry_at = NULL",
        "next_retry_at = now() + interval '1 minute'",
        "expires_at = now() - interval '1 second'",
        "status = 'failed', attempts = 5, max_attempts = 5, next_retry_at = now()",
    ],
)
async def test_claim_skips_what_is_not_due(pool, queue, change):
    email_id = await queue()
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', email_id)
    assert await claims.claim(pool, [email_id], **WHO) == []
    assert await claims.claim_due(pool, 10, **WHO) == []


async def test_claim_after_operators_update_of_an_exhausted_row_grants_one_attempt(
    pool, queue, row
):
    email_id = await queue(max_attempts=1)
    await pool.execute(
        "UPDATE outbound_emails SET status = 'failed', attempts = 1, next_retry_at = NULL"
    )
    await pool.execute(
        "UPDATE outbound_emails SET status = 'pending', next_retry_at = NOW() WHERE id = $1",
        email_id,
    )
    (claim,) = await claims.claim_due(pool, 10, **WHO)
    assert (claim.attempt, claim.max_attempts) == (2, 2)


async def test_claim_due_takes_priority_first_then_the_longest_due(pool, queue):
    low = await queue(priority='low')
    normal = await queue()
    high = await queue(priority='high')
    older = await queue()
    await pool.execute(
        "UPDATE outbound_emails SET next_retry_at = now() - interval '1 hour' WHERE id = $1", older
    )
    assert [c.email.id for c in await claims.claim_due(pool, 1, **WHO)] == [high]
    assert [c.email.id for c in await claims.claim_due(pool, 1, **WHO)] == [older]
    assert {c.email.id for c in await claims.claim_due(pool, 5, **WHO)} == {normal, low}


async def test_claim_due_by_two_workers_shares_without_overlap(pool, queue):
    ids = {await queue() for _ in range(40)}
    batches = await asyncio.gather(*(claims.claim_due(pool, 15, **WHO) for _ in range(4)))
    claimed = [c.email.id for batch in batches for c in batch]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == ids


async def test_claim_due_sees_rows_without_a_time_after_give_due_time(pool):
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text) VALUES '
        "('a@example.com', 's', 't')"
    )
    assert await claims.claim_due(pool, 5, **WHO) == []
    await give_due_time(pool)
    assert len(await claims.claim_due(pool, 5, **WHO)) == 1


async def test_record_writes_row_and_attempt(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    decision = decide(ACCEPTED, 1, 5, None, None)
    assert await results.record(
        pool, [Result(claim, ACCEPTED, decision, 0.25)], worker='w1@host:1'
    ) == {claim.key}
    stored = await row(email_id)
    assert (stored['status'], stored['smtp_code'], stored['enhanced_code']) == (
        'sent',
        250,
        '2.0.0',
    )
    assert stored['smtp_response'] == '2.0.0 queued as 4711'
    assert stored['claim_token'] is None
    assert stored['sent_at'] is not None
    (attempt,) = await pool.fetch('SELECT * FROM email_attempts')
    assert (attempt['outcome'], attempt['attempt'], attempt['relay'], attempt['duration_ms']) == (
        'accepted', 1, 'primary', 250,
    )  # fmt: skip
    assert attempt['started_at'] == claim.claimed_at


async def test_record_with_a_stale_token_changes_nothing(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    await pool.execute('UPDATE outbound_emails SET claim_token = $1', uuid4())
    before = await row(email_id)
    assert (
        await results.record(
            pool, [Result(claim, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w'
        )
        == set()
    )
    assert await row(email_id) == before
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 0


async def test_record_after_an_operator_took_the_row_back_changes_nothing(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    await pool.execute(
        "UPDATE outbound_emails SET status = 'pending', next_retry_at = NOW() WHERE id = $1",
        email_id,
    )
    assert (
        await results.record(
            pool, [Result(claim, ACCEPTED, Decision(Status.SENT), 0.1)], worker='w'
        )
        == set()
    )
    assert (await row(email_id))['status'] == 'pending'


async def test_record_released_burns_no_attempt(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    delivery = Delivery(Outcome.RELEASED, Phase.CONNECT, error='the worker stopped')
    await results.record(
        pool, [Result(claim, delivery, decide(delivery, 1, 5, None, None), 0.1)], worker='w'
    )
    stored = await row(email_id)
    assert (stored['status'], stored['attempts']) == ('pending', 0)
    assert await pool.fetchval('SELECT outcome FROM email_attempts') == 'released'


async def test_record_stores_what_a_hostile_relay_says(pool, queue, row):
    email_id = await queue()
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    delivery = Delivery(
        Outcome.REJECTED,
        Phase.RCPT,
        'primary',
        Reply(550, 'nul \0 half \udcff ' + 'x' * 9999),
        'e\0',
    )
    await results.record(pool, [Result(claim, delivery, Decision(Status.FAILED), 0.1)], worker='w')
    assert len((await row(email_id))['smtp_response']) == 2000


async def test_record_of_a_batch_keeps_results_apart(pool, queue, row):
    ids = [await queue(recipient='a@example.com, b@example.com') for _ in range(3)]
    claimed = {c.email.id: c for c in await claims.claim(pool, ids, **WHO)}
    partial = {
        'a@example.com': (Outcome.ACCEPTED, '250 ok'),
        'b@example.com': (Outcome.DEFERRED, '451 later'),
    }
    ended = [
        Result(claimed[ids[0]], ACCEPTED, Decision(Status.SENT), 0.1),
        Result(
            claimed[ids[1]],
            Delivery(
                Outcome.DEFERRED, Phase.RCPT, 'backup', Reply(451, 'later'), recipients=partial
            ),
            Decision(Status.FAILED, 90.0),
            0.1,
        ),
        Result(
            claimed[ids[2]],
            Delivery(Outcome.REJECTED, Phase.RCPT),
            Decision(Status.FAILED, None),
            0.1,
        ),
    ]
    assert len(await results.record(pool, ended, worker='w')) == 3
    first, second, third = [await row(i) for i in ids]
    assert (first['status'], second['status'], third['status']) == ('sent', 'failed', 'failed')
    assert 80 < (second['next_retry_at'] - second['updated_at']).total_seconds() < 91
    assert third['next_retry_at'] is None
    await pool.execute('UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1', ids[1])
    (again,) = await claims.claim(pool, [ids[1]], **WHO)
    assert again.settled == partial


async def test_check_constraints_forbid_illegal_rows(pool):
    for columns, values in (
        ('status', "'weird'"),
        ('status', "'sending'"),
        ('status', "'sent'"),
        ('attempts, max_attempts', '4, 3'),
        ('priority', '7'),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await pool.execute(
                f'INSERT INTO outbound_emails (recipient, {columns}) VALUES '
                f"('a@b.example', {values})"
            )


async def test_message_id_of_a_row_is_the_same_on_every_server_that_has_it(pool, queue, row):
    """A replica that lags, or a backup, has the row as it was before its claim.

    Its sessions may have any settings.
    """
    email_id, other = await queue(), await queue()
    before = await row(email_id)
    (first,) = await claims.claim(pool, [email_id], **WHO)
    await pool.execute('DELETE FROM outbound_emails WHERE id = $1', email_id)
    await pool.execute(
        (
            'INSERT INTO outbound_emails (id, recipient, body_text, created_at) VALUES ($1, '
            "'a@example.com', 't', $2)"
        ),
        email_id,
        before['created_at'],
    )
    async with pool.acquire() as conn:
        await conn.execute(
            "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET extra_float_digits = 0"
        )
        (again,) = await claims.claim(conn, [email_id], **WHO)
        await conn.execute('RESET ALL')
    assert again.email.message_id == first.email.message_id
    (another,) = await claims.claim(pool, [other], **WHO)
    assert another.email.message_id != first.email.message_id


async def test_message_id_that_the_row_has_is_kept(pool, queue):
    email_id = await queue()
    await pool.execute("UPDATE outbound_emails SET message_id = '<own@example.com>'")
    (claim,) = await claims.claim(pool, [email_id], **WHO)
    assert claim.email.message_id == '<own@example.com>'
