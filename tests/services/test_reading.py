"""An application reads back what became of its e-mails, on whatever connection it has."""

from datetime import timedelta
from typing import Any, get_args, get_type_hints

import pytest

from jobs.send_email import send_email
from mail.outcome import Outcome
from mail_outbox import Attempt, DeadReason, Status, attempts, queue_email, status
from tests.services.connections import WAYS, awaited, opened

HELLO = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}


@pytest.fixture(params=WAYS)
async def way(request: Any, database: Any) -> Any:
    async with opened(request.param, database.dsn) as found:
        yield found


async def test_status_and_attempts_of_an_e_mail_from_its_insert_until_it_is_sent(
    way: Any, pool: Any, ctx: Any, database: Any
) -> None:
    email_id = await awaited(queue_email(way.conn, **HELLO))
    queued = await awaited(status(way.conn, email_id))
    assert (queued.status, queued.attempts, queued.is_over) == (Status.PENDING, 0, False)
    assert queued.expires_at - queued.next_retry_at == timedelta(hours=24)
    assert await awaited(attempts(way.conn, email_id)) == []
    await awaited(way.commit())
    await send_email(ctx, email_id)
    async with opened('asyncpg', database.dsn) as later:
        sent = await status(later.conn, email_id)
        [attempt] = await attempts(later.conn, email_id)
    assert (sent.status, sent.attempts, sent.is_over) == (Status.SENT, 1, True)
    assert (sent.smtp_code, sent.relay) == (250, 'primary')
    assert sent.sent_at > attempt.started_at
    assert (attempt.attempt, attempt.outcome, attempt.phase) == (1, 'accepted', 'replied')
    assert await pool.fetchval('SELECT sent_at FROM outbound_emails') == sent.sent_at


async def test_dead_and_partly_refused_mail_says_why(pool: Any, ctx: Any, inbox: Any) -> None:
    inbox.control.misbehave('rcpt', 'refuse', code=550, text='5.1.1 nobody', times=2)
    async with pool.acquire() as conn:
        dead = await queue_email(conn, **HELLO | {'recipient': 'no@example.com'})
        partly = await queue_email(conn, **HELLO | {'recipient': 'no@example.com, yes@example.com'})
        for email_id in (dead, partly):
            await send_email(ctx, email_id)
        found = await status(conn, dead)
        assert (found.status, found.dead_reason, found.is_over) == (
            Status.FAILED, DeadReason.REJECTED, True,
        )  # fmt: skip
        assert found.smtp_code == 550
        assert 'nobody' in found.last_error
        found = await status(conn, partly)
        assert {to: outcome for to, (outcome, _) in found.recipient_outcomes.items()} == {
            'yes@example.com': 'accepted', 'no@example.com': 'rejected',
        }  # fmt: skip


async def test_no_such_e_mail_has_no_status(way: Any) -> None:
    assert await awaited(status(way.conn, 12345)) is None
    assert await awaited(attempts(way.conn, 12345)) == []


async def test_time_beyond_all_years_is_none(pool: Any) -> None:
    async with pool.acquire() as conn:
        email_id = await queue_email(conn, **HELLO)
        await conn.execute("UPDATE outbound_emails SET expires_at = 'infinity'")
        assert (await status(conn, email_id)).expires_at is None


def test_outcomes_of_attempts_are_those_of_the_worker() -> None:
    assert set(get_args(get_type_hints(Attempt)['outcome'])) == {str(word) for word in Outcome}
