"""What a desk shows: some hundred e-mails in every state, as of a shop on an ordinary day."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from db.history import count_recorded

NAMES = (
    'anna', 'bert', 'chiara', 'daniel', 'elif', 'farid', 'greta', 'hugo', 'ines', 'jonas', 'kim',
    'lena', 'mateo', 'nora', 'oscar', 'priya', 'quentin', 'rosa', 'sven', 'tara',
)  # fmt: skip
DOMAINS = ('example.com', 'example.org', 'mail.example.net', 'post.example', 'firma.example')
SUBJECTS = {
    'receipt': 'Your receipt {n}', 'password_reset': 'Reset your password',
    'shipping': 'Your parcel {n} is on its way', 'newsletter': 'News for June',
    'invitation': 'You are invited to the project Harbour',
}  # fmt: skip
# status, dead_reason, code, enhanced code, phase, outcome, the relay's words
ENDS: tuple[tuple[Any, ...], ...] = (
    ('failed', 'rejected', 550, '5.1.1', 'rcpt', 'rejected',
     '550 5.1.1 no such user here; see https://relay.example/why'),
    ('failed', 'exhausted', 452, '4.2.2', 'rcpt', 'deferred', '452 4.2.2 mailbox full'),
    ('failed', None, 451, '4.7.1', 'mail', 'deferred', '451 4.7.1 greylisted, try again later'),
    ('uncertain', None, None, None, 'body', 'uncertain', 'no reply to the final dot within 30 s'),
    ('held', None, None, None, None, None, None),
    ('cancelled', None, None, None, None, None, None),
    ('expired', None, None, None, None, None, None),
    ('pending', None, None, None, None, None, None),
)  # fmt: skip


async def fill(pool: asyncpg.Pool, emails: int = 480, seed: int = 7) -> None:
    """Insert e-mails, their attempts, runs of duties, what services said, and a pause."""
    chosen = random.Random(seed)
    now = datetime.now(UTC)
    for n in range(emails):
        at = now - timedelta(minutes=chosen.expovariate(1 / 240) + 2)
        end = chosen.choice(ENDS) if chosen.random() < 0.3 else None
        await _insert(pool, chosen, n, at, end)
    await pool.execute(
        'INSERT INTO mail_switches (kind, name, reason, paused_by) '
        "VALUES ('email_type', 'newsletter', 'the template has a wrong date', 'lena')"
    )
    await pool.execute(
        'INSERT INTO email_suppressions (address, reason, source, created_by) VALUES '
        "('gone@example.com', 'bounced three times', 'operator', 'lena'), "
        "('@spamtrap.example', 'a list of traps', 'operator', 'oscar')"
    )
    await pool.execute(
        'INSERT INTO email_feedback (report_key, kind, source, recipient, enhanced_code, '
        'diagnostic, email_id, received_at, applied_at, effect) '
        "SELECT 'shown ' || n, (ARRAY['bounce', 'complaint', 'soft-bounce'])[n % 3 + 1], "
        "'ingress', recipient, '5.1.1', 'smtp; 550 5.1.1 no such user', id, "
        "now() - n * interval '7 min', now(), "
        "CASE n % 3 WHEN 0 THEN 'it is bounced' WHEN 1 THEN 'it is complained' ELSE 'noted' END "
        'FROM (SELECT *, row_number() OVER (ORDER BY id DESC) AS n FROM mail_outbox) AS e '
        'WHERE n <= 7'
    )
    until = await pool.fetchval("SELECT date_trunc('minute', now())")
    since = until - timedelta(days=8)
    await pool.execute('UPDATE mail_history_progress SET counted_until = $1', since)
    await count_recorded(pool, since, until)


async def _insert(
    pool: asyncpg.Pool,
    chosen: random.Random,
    n: int,
    at: datetime,
    end: tuple[Any, ...] | None,
) -> None:
    kind = chosen.choice(list(SUBJECTS))
    recipient = f'{chosen.choice(NAMES)}@{chosen.choice(DOMAINS)}'
    subject = SUBJECTS[kind].format(n=41_000 + n)
    status, dead, code, enhanced, phase, outcome, said = end or (
        'sent', None, 250, '2.0.0', 'replied', 'accepted', '250 2.0.0 queued as 4bX7'
    )  # fmt: skip
    attempts = 0 if outcome is None else 5 if dead == 'exhausted' else chosen.choice((1, 1, 2))
    later = datetime.now(UTC) + timedelta(minutes=chosen.randint(3, 50))
    waits = status == 'pending' or (status == 'failed' and dead is None)
    body = f'Hello {recipient.partition("@")[0].title()},\n\n{subject}.\n\nYours, the shop\n'
    html = f'<h1>{subject}</h1><p>Hello, here is <a href="https://shop.example">the shop</a>.</p>'
    email_id = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type, '
        'status, attempts, next_retry_at, last_attempt_at, sent_at, created_at, updated_at, '
        'message_id, relay, smtp_code, enhanced_code, smtp_response, last_error, dead_reason, '
        'organization_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, '
        '$14, $15, $16, $17, $18, $19) RETURNING id',
        recipient, subject, body, html, kind, status, attempts, later if waits else None,
        at if attempts else None, at + timedelta(seconds=1) if status == 'sent' else None, at,
        f'<{uuid4().hex}@example.com>', 'primary' if attempts else None, code, enhanced, said,
        None if status == 'sent' else said, dead, chosen.randint(1, 4),
    )  # fmt: skip
    for attempt in range(1, attempts + 1):
        last = attempt == attempts
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
            'relay, smtp_code, enhanced_code, reply, duration_ms, recorded_at) '
            'VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $2)',
            email_id, at + timedelta(seconds=chosen.uniform(0.05, 4) + (attempt - 1) * 61),
            attempt, 'worker@mail-1:812',
            outcome if last else 'deferred', phase if last else 'rcpt', 'primary',
            code if last else 451, enhanced if last else '4.3.0',
            said if last else '451 4.3.0 try again later', chosen.randint(40, 900),
        )  # fmt: skip
