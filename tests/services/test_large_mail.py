"""Large e-mails: a worker with little memory sends them one after the other, and all others beside
them.
"""

import asyncio
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from delivery.attempts import SweepTally
from delivery.bytes_in_flight import SHARE_OF_MEMORY
from jobs.send_email import send_email
from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import Attachment
from tests.conftest import wait_until

LARGE_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, body_html, status, next_retry_at)
SELECT 'large@example.com', 'Report ' || n, repeat(repeat('x', 75) || E'\n', $2), repeat(repeat('y',
    75) || E'\n', $2),
    'pending', now() - interval '1 hour' FROM generate_series(1, $1::int) AS n
"""
SMALL_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, status, next_retry_at)
SELECT 'small@example.com', 'Hello', 'Hello', 'pending', now() FROM generate_series(1, $1::int) AS n
"""
SENT_SQL = "SELECT count(*) FROM mail_outbox WHERE status = 'sent' AND recipient = $1"
LINES_OF_9_MB = 9_000_000 // 76
GIB = 1024**3


def peak_bytes(pid: int) -> int:
    status = Path(f'/proc/{pid}/status').read_text()
    return 1024 * int(
        next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM'))
    )


def sent(pool: asyncpg.Pool, recipient: str, number: int) -> Any:
    async def look() -> bool:
        return await pool.fetchval(SENT_SQL, recipient) == number

    return look


async def test_large_mail_is_sent_within_a_gibibyte_and_small_mail_beside_it(
    start_worker, pool, inbox
):
    await pool.execute(LARGE_SQL, 12, LINES_OF_9_MB)
    await pool.execute(SMALL_SQL, 160)
    worker = await start_worker(WORKER_MAX_BYTES_IN_FLIGHT=str(GIB // SHARE_OF_MEMORY)).started()
    await wait_until(sent(pool, 'small@example.com', 160))
    assert await pool.fetchval(SENT_SQL, 'large@example.com') < 12  # they came first
    await wait_until(sent(pool, 'large@example.com', 12))
    assert peak_bytes(worker.process.pid) < GIB  # all at once take more
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 172


@pytest.fixture
def large(pool):
    """Insert large e-mails and return their ids, in the order of insertion."""

    async def insert(number: int, lines: int = 2000) -> list[int]:
        await pool.execute(LARGE_SQL, number, lines)
        return [row['id'] for row in await pool.fetch('SELECT id FROM mail_outbox ORDER BY id')]

    return insert


async def test_claim_brings_small_content_and_leaves_large_where_it_is(runtime, queue, large):
    small = await queue(
        body_text='a', body_html='b', template_data={'a': 1}, headers={'Reply-To': 'b@example.com'}
    )
    [first, *_] = await large(1)
    claims = {claim.email.id: claim for claim in await runtime.claimer.claim_due(10)}
    assert claims[small].is_whole
    assert (claims[small].email.body_text, claims[small].email.body_html) == ('a', 'b')
    others = [claim for email_id, claim in claims.items() if email_id != small]
    assert first == small
    assert [(claim.is_whole, claim.email.body_text, claim.email.body_html) for claim in others] == [
        (False, None, None)
    ]


async def test_attempt_is_committed_before_large_content_is_read(
    ctx, pool, large, row, monkeypatch
):
    """So a worker that large content kills has lost an attempt, and poison engages."""
    seen = []

    contents = ctx['runtime'].contents
    fetch_email = contents.fetch_email

    async def look(claim: Any) -> Any:
        seen.append(await row(claim.email.id))
        return await fetch_email(claim)

    monkeypatch.setattr(contents, 'fetch_email', look)
    [email_id] = await large(1)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert [(before['status'], before['attempts']) for before in seen] == [('sending', 1)]


@pytest.mark.parametrize(
    'part',
    [
        {
            'recipient': ', '.join(
                f'{n}{"x" * 180}@example.com'.replace('x@', '@') for n in range(100)
            )
        },
        {'body_text': 'ü' * 20_000},
        {'body_html': '<p>ü</p>' * 10_000},
        {'body_text': 'a', 'template_data': {str(n): f'{n * 7919:x}' * 9 for n in range(500)}},
        {'headers': {f'X-{n}': f'{n * 7919:x}' * 9 for n in range(100)}},
    ],
)
async def test_large_content_of_any_kind_arrives_whole(ctx, queue, inbox, pool, part):
    email_id = await queue(**{'recipient': 'whole@example.com', 'body_text': 'a'} | part)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert ctx['runtime'].contents.large.taken_bytes == 0
    message = BytesParser(policy=policy.default).parsebytes(inbox.message(inbox.accepted()[-1]))
    if 'body_text' in part:
        assert message.get_body(('plain',)).get_content().strip() == part['body_text']
    if 'body_html' in part:
        assert message.get_body(('html',)).get_content().strip() == part['body_html']
    for name, value in part.get('headers', {}).items():
        assert message[name] == value


async def test_row_with_more_than_any_message_may_have_is_dead_unread(ctx, runtime, large, row):
    runtime.contents.max_message_bytes = 100_000
    [email_id] = await large(1)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    stored = await row(email_id)
    assert (stored['next_retry_at'], 'EMAIL_MAX_BYTES' in stored['last_error']) == (None, True)


async def test_attachments_larger_than_any_message_are_not_fetched(
    ctx, runtime, queue, row, monkeypatch
):
    runtime.contents.max_message_bytes = 100_000
    content_id = await store_attachments(
        runtime.stores.mongo, [Attachment('a.bin', 'application/pdf', b'x' * 200_000)]
    )
    monkeypatch.setattr(runtime.contents, 'fetch_attachments', None)
    email_id = await queue(content_id=content_id)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    assert 'EMAIL_MAX_BYTES' in (await row(email_id))['last_error']


async def test_large_jobs_that_wait_hold_no_slot_from_small_ones(ctx, runtime, large, queue, inbox):
    """All the budget is taken, and more jobs for large e-mails wait than there are slots."""
    runtime.tunables.max_emails = 4
    ids = await large(10)
    async with runtime.contents.large.share(runtime.contents.large.limit_bytes):
        waiting = [asyncio.create_task(send_email(ctx, email_id)) for email_id in ids]
        await wait_until(lambda: len(runtime.contents.large.waiting) == 10)
        small = await queue('small@example.com')
        assert (await send_email(ctx, small))['status'] == 'sent'
    assert {(await job)['status'] for job in waiting} == {'sent'}


async def test_sweep_sends_small_mail_while_more_large_mail_waits_than_it_has_slots(
    runtime, large, queue, row
):
    runtime.tunables.max_emails = 4
    ids = await large(10)
    small = await queue('small@example.com', priority='low')
    tally = SweepTally()
    async with runtime.contents.large.share(runtime.contents.large.limit_bytes):
        await runtime.sweeper.sweep(tally)
        await wait_until(lambda: tally.outcomes['sent'] == 1)
        assert (await row(small))['status'] == 'sent'
    await wait_until(lambda: tally.outcomes['sent'] == 1 + len(ids))


async def test_job_for_large_mail_is_given_back_when_very_many_wait(
    ctx, runtime, large, row, monkeypatch
):
    monkeypatch.setattr('delivery.attempts.MAX_WAITING', 2)
    ids = await large(3)
    async with runtime.contents.large.share(runtime.contents.large.limit_bytes):
        waiting = [asyncio.create_task(send_email(ctx, email_id)) for email_id in ids[:2]]
        await wait_until(lambda: len(runtime.contents.large.waiting) == 2)
        assert (await send_email(ctx, ids[2]))['status'] == 'pending'
        assert (await row(ids[2]))['attempts'] == 0
    assert {(await job)['status'] for job in waiting} == {'sent'}
