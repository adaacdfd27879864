"""What must hold after every scenario, read from the outbox, the attempts and the sink's durable
record.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from tests.chaos.report import Row

SHOWN = 5  # offending e-mails told in full; the rest is counted
DOUBTFUL = ('uncertain', 'lost')

EMAILS_SQL = """
SELECT id, status, attempts, max_attempts, lost_attempts, dead_reason, last_error, message_id,
    claimed_by, EXTRACT(EPOCH FROM created_at)::float8 AS created_at,
    EXTRACT(EPOCH FROM sent_at)::float8 AS sent_at
FROM outbound_emails WHERE id = ANY($1::bigint[]) ORDER BY id
"""

ATTEMPTS_SQL = """
SELECT email_id, attempt, worker, outcome, phase, relay, error,
    EXTRACT(EPOCH FROM started_at)::float8 AS started_at, duration_ms
FROM email_attempts WHERE email_id = ANY($1::bigint[]) ORDER BY email_id, started_at
"""


@dataclass
class Evidence:
    """All that is known about some e-mails when the scenario is over."""

    emails: list[asyncpg.Record]
    attempts: dict[int, list[asyncpg.Record]]
    accepted: Counter[str | None]  # Message-ID -> how often the sink has it
    recovery_s: list[float] = field(default_factory=list)

    def of(self, email: asyncpg.Record) -> list[asyncpg.Record]:
        return self.attempts.get(email['id'], [])


async def collect(
    pool: asyncpg.Pool, ids: Sequence[int], accepted: Counter[str | None]
) -> Evidence:
    attempts = defaultdict(list)
    for attempt in await pool.fetch(ATTEMPTS_SQL, ids):
        attempts[attempt['email_id']].append(attempt)
    return Evidence(await pool.fetch(EMAILS_SQL, ids), dict(attempts), accepted)


def judge(
    row: Row,
    evidence: Evidence,
    *,
    expected: Mapping[int, Collection[str]] | None = None,
    most_duplicates: int | None = None,
    killed: Collection[str] = (),
) -> None:
    """Fill the row's counts from the evidence, and its problems with every promise that was broken.

    Args:
        expected: The states that are right for certain e-mails, when not `sent`; 'failed:poison'
            names the reason too.
        killed: Workers killed at random. An e-mail that lost three attempts in a row with them is
            poison by contract, innocent or not; that has to stay rare.
        most_duplicates: Kills times the SMTP transactions a worker has open at most.
    """
    row.emails = len(evidence.emails)
    checks: tuple[tuple[str, Callable[[asyncpg.Record], bool]], ...] = (
        (
            'lost',
            lambda email: (
                not _is_accounted_for(email, evidence, (expected or {}).get(email['id'], ('sent',)))
                and not _is_killed_thrice(email, evidence, killed)
            ),
        ),
        (
            'sent, but not in the sink',
            lambda e: e['status'] == 'sent' and not evidence.accepted[e['message_id']],
        ),
        ('left sending', lambda email: email['status'] == 'sending'),
        ('more attempts than allowed', lambda email: email['attempts'] > email['max_attempts']),
        ('a duplicate outside the uncertain window', lambda email: _outside(email, evidence) > 0),
        (
            'attempts without a record',
            lambda email: _counted(evidence.of(email)) != email['attempts'],
        ),
    )
    for what, is_broken in checks:
        broken = [email for email in evidence.emails if is_broken(email)]
        if what == 'lost':
            row.lost = len(broken)
        if broken:
            row.problems.append(_tell(what, broken, evidence))
    quarantined = sum(_is_killed_thrice(email, evidence, killed) for email in evidence.emails)
    if quarantined:
        row.notes.append(
            f'{quarantined} e-mails were killed three times in a row by chance, and are poison'
        )
    if quarantined > 1 + row.emails // 1000:
        row.problems.append(
            f'{quarantined} innocent e-mails are poison, more than one in a thousand'
        )
    row.delivered = sum(evidence.accepted[email['message_id']] > 0 for email in evidence.emails)
    row.duplicates = sum(_copies_too_many(email, evidence) for email in evidence.emails)
    row.outside = sum(_outside(email, evidence) for email in evidence.emails)
    if most_duplicates is not None and row.duplicates > most_duplicates:
        row.problems.append(
            f'{row.duplicates} duplicates, more than {most_duplicates} open SMTP transactions'
        )
    row.recovery_s += evidence.recovery_s


def _is_accounted_for(email: asyncpg.Record, evidence: Evidence, right: Collection[str]) -> bool:
    state = email['status']
    if state == 'sent' and 'sent' in right:
        return evidence.accepted[email['message_id']] > 0
    return state in right or f'{state}:{email["dead_reason"]}' in right


def _is_killed_thrice(email: asyncpg.Record, evidence: Evidence, killed: Collection[str]) -> bool:
    lost = [
        attempt
        for attempt in evidence.of(email)
        if attempt['outcome'] == 'lost' and attempt['worker'] in killed
    ]
    return email['status'] == 'failed' and email['dead_reason'] == 'poison' and len(lost) >= 3


def _copies_too_many(email: asyncpg.Record, evidence: Evidence) -> int:
    return max(0, evidence.accepted[email['message_id']] - 1)


def _outside(email: asyncpg.Record, evidence: Evidence) -> int:
    """Count the copies that no attempt of unknown outcome explains."""
    doubtful = sum(attempt['outcome'] in DOUBTFUL for attempt in evidence.of(email))
    return max(0, _copies_too_many(email, evidence) - doubtful)


def _counted(attempts: Sequence[asyncpg.Record]) -> int:
    return sum(attempt['outcome'] != 'released' for attempt in attempts)


def _tell(what: str, broken: Sequence[asyncpg.Record], evidence: Evidence) -> str:
    lines = [f'{what}: {len(broken)} e-mails']
    for email in broken[:SHOWN]:
        lines.append(
            f'  {email["id"]}: {email["status"]}, {email["attempts"]} of {email["max_attempts"]} '
            'attempts, '
            f'{email["lost_attempts"]} lost in a row, dead_reason {email["dead_reason"]}, '
            f'held by {email["claimed_by"]}, {evidence.accepted[email["message_id"]]} in the sink'
        )
        lines += [
            f'    {a["started_at"]:.3f} attempt {a["attempt"]} by {a["worker"]}: {a["outcome"]} '
            f'in {a["phase"]} '
            f'at {a["relay"]}, {a["duration_ms"]} ms, {a["error"]}'
            for a in evidence.of(email)
        ]
    return '\n'.join(lines)
