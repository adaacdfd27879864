"""What waits is counted at once while it is little, and by a duty when it is much."""

from typing import Any

import pytest

from db import reports, waiting
from db.waiting import Group, completed, read_waiting
from jobs.count_history import count_history
from tests.services.ops_desk import insert

MANY_SQL = """
INSERT INTO outbound_emails (recipient, email_type, status, attempts, next_retry_at, priority)
SELECT 'anna@example.com', $1, $2, $3, now() + $4 * interval '1 minute' + n * interval '1 ms', $5
FROM generate_series(1, $6::int) AS n
"""


async def insert_many(
    pool: Any, number: int, due_in_minutes: float, *, email_type: str | None = None,
    status: str = 'pending', priority: int = 1
) -> None:  # fmt: skip
    attempts = 0 if status == 'pending' else 1
    await pool.execute(MANY_SQL, email_type, status, attempts, due_in_minutes, priority, number)


@pytest.fixture
def few(monkeypatch):
    """Ten rows of a part are many."""
    monkeypatch.setattr(waiting.read_waiting, '__defaults__', (10,))
    monkeypatch.setattr(waiting.full_parts, '__defaults__', (10,))


async def test_of_a_large_part_the_last_count_stands_with_its_age(ctx, pool, few):
    await insert_many(pool, 30, -60)
    await insert_many(pool, 20, 60)
    await insert_many(pool, 3, -5, priority=0)
    await insert(pool, status='failed', attempts=1)
    before = await reports.read_outbox(pool)
    assert (before['due'], before['scheduled'], before['dead']) == (13, 0, 1)
    assert (before['is_at_least'], before['counted_s']) == (True, 0)
    await count_history(ctx)
    await pool.execute(
        "UPDATE mail_history_progress SET waiting_counted_at = now() - interval '40 s'"
    )
    await insert_many(pool, 2, -1, priority=0)  # a small part: counted now
    after = await reports.read_outbox(pool)
    assert (after['due'], after['scheduled'], after['dead']) == (35, 20, 1)
    assert not after['is_at_least']
    assert 40 <= after['counted_s'] < 60
    assert 3590 < after['oldest_due_s'] < 3660


async def test_oldest_due_email_of_each_priority_is_found_behind_any_backlog(ctx, pool, few):
    await insert_many(pool, 30, -10, priority=0)
    await insert_many(pool, 1, -120, priority=2)
    outbox = await reports.read_outbox(pool)
    assert 7199 < outbox['oldest_due_s'] < 7260


async def test_paused_mail_is_told_from_others_in_a_large_part(ctx, pool, few):
    await insert_many(pool, 30, -60, email_type='news')
    await insert_many(pool, 15, -20, email_type='code')
    await pool.execute(
        "INSERT INTO mail_switches (kind, name, paused_by) VALUES ('email_type', 'news', 'anna')"
    )
    await count_history(ctx)
    paused = await reports.read_paused_due(pool)
    assert (paused['due'], paused['others_due']) == (30, 15)
    assert 3599 < paused['oldest_due_s'] < 3660
    assert 1199 < paused['oldest_other_s'] < 1260


async def test_count_is_forgotten_once_all_parts_are_small(ctx, pool, few):
    await insert_many(pool, 30, -60)
    await count_history(ctx)
    await pool.execute("UPDATE outbound_emails SET status = 'cancelled' WHERE id % 4 > 0")
    await count_history(ctx)
    assert await pool.fetchval('SELECT waiting IS NULL FROM mail_history_progress')
    found = await read_waiting(pool)
    assert (found.counted_s, found.is_at_least) == (0, False)
    assert sum(group.emails for group in found.groups) < 10


async def test_all_is_counted_again_only_after_thirty_times_as_long_as_it_took(ctx, pool, few):
    await insert_many(pool, 30, -60)
    await count_history(ctx)
    await insert_many(pool, 30, -60)
    await pool.execute('UPDATE mail_history_progress SET waiting_took_s = 10')
    await count_history(ctx)
    assert (await reports.read_outbox(pool))['due'] == 30
    await pool.execute('UPDATE mail_history_progress SET waiting_took_s = 0.000001')
    await count_history(ctx)
    assert (await reports.read_outbox(pool))['due'] == 60


def test_last_count_adds_nothing_to_a_part_that_is_small_now():
    now = [Group('priority 1', 'due', False, 10, 5.0), Group('final', 'dead', False, 2, None)]
    last = [
        Group('priority 1', 'due', False, 900, 1.0),
        Group('priority 1', 'retrying', False, 7, None),
        Group('final', 'dead', False, 40, None),
    ]
    assert completed(now, last, {'priority 1'}) == [
        Group('priority 1', 'due', False, 900, 5.0),
        Group('final', 'dead', False, 2, None),
        Group('priority 1', 'retrying', False, 7, None),
    ]
