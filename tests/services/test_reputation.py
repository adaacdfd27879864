"""Doctor tells of dead addresses and complaints before mailbox providers act on them."""

import pytest

from db.reputation import count_returned
from reporting.checks.finding import Severity
from reporting.checks.reputation import judge_returned
from tests.services.ops_desk import ops


def row(emails, bounced=0, complained=0):
    return {
        'relay': 'eu', 'sender_domain': None, 'emails': emails, 'bounced': bounced,
        'complained': complained,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('counts', 'severities'),
    [
        (row(1000, bounced=49), []),
        (row(1000, bounced=50), [Severity.WARNING]),
        (row(1000, bounced=100), [Severity.ERROR]),
        (row(10_000, complained=9), []),
        (row(10_000, complained=10), [Severity.WARNING]),
        (row(10_000, complained=30), [Severity.ERROR]),
        (row(1000, bounced=50, complained=3), [Severity.WARNING, Severity.ERROR]),
        (row(500, complained=2), []),  # two people
        (row(199, bounced=150), []),  # too few to say
    ],
)
def test_shares_are_judged_as_the_large_providers_state_them(counts, severities):
    assert [finding.severity for finding in judge_returned([counts])] == severities


async def test_doctor_counts_by_relay_and_sender_domain(env, pool):
    await pool.execute(
        """INSERT INTO outbound_emails (recipient, subject, status, relay, from_address, attempts,
               sent_at, enhanced_code, created_at)
           SELECT 'a@example.net', 's',
               CASE WHEN n BETWEEN 280 AND 299 THEN 'failed' ELSE 'sent' END,
               CASE WHEN n < 300 THEN 'eu' ELSE 'us' END,
               CASE WHEN n < 300 THEN 'Shop <billing@Brand.example>' END, 1, now(),
               CASE WHEN n BETWEEN 280 AND 299 THEN '5.1.1' END,
               now() - CASE WHEN n < 600 THEN interval '1 hour' ELSE interval '8 days' END
           FROM generate_series(0, 899) AS n"""
    )
    await pool.execute(
        """INSERT INTO email_feedback (report_key, kind, source, email_id)
           SELECT 'b' || id, CASE WHEN id % 2 = 0 THEN 'bounce' ELSE 'soft-bounce' END, 'dsn', id
           FROM outbound_emails WHERE id <= 20
           UNION ALL SELECT 'c' || id, 'complaint', 'arf', id FROM outbound_emails
           WHERE id BETWEEN 400 AND 402"""
    )
    counted = {
        row['relay'] or row['sender_domain']: (row['emails'], row['bounced'], row['complained'])
        for row in await count_returned(pool, 'shop.example')
    }
    assert counted == {
        'eu': (300, 30, 0), 'us': (300, 0, 3), 'brand.example': (300, 30, 0),
        'shop.example': (300, 0, 3),
    }  # fmt: skip
    told = await ops(env | {'SMTP_FROM_EMAIL': 'noreply@shop.example'}, 'doctor', 'reputation',
                     '--json')  # fmt: skip
    bounces = 'bounced as dead addresses: 10.0%, and providers act from 10.0%'
    complaints = 'were reported as unwanted: 1.0%, and providers act from 0.3%'
    assert {finding['what'] for finding in told.document['findings']} == {
        f'30 of 300 e-mails sent by eu in 7 days {bounces}',
        f'30 of 300 e-mails sent from brand.example in 7 days {bounces}',
        f'3 of 300 e-mails sent by us in 7 days {complaints}',
        f'3 of 300 e-mails sent from shop.example in 7 days {complaints}',
    }
    assert told.status == 1
