"""How deliveries to webhooks go, in numbers that cost little however many there are."""

from urllib.parse import urlsplit

import asyncpg

from db.times import Row

MOST_WAITING = 1000  # are counted of one webhook

READ_FIGURES_SQL = f"""
SELECT w.id, w.url, w.enabled, w.disabled_reason, w.last_error,
    EXTRACT(EPOCH FROM now() - w.failing_since)::float8 AS failing_s,
    COALESCE(d.waiting, 0) AS waiting,
    EXTRACT(EPOCH FROM now() - d.oldest_at)::float8 AS oldest_waiting_s,
    CASE WHEN w.given_up_at > now() - interval '1 day' THEN w.given_up ELSE 0 END AS given_up
FROM mail_webhooks AS w
LEFT JOIN LATERAL (
    SELECT count(*) AS waiting, min(occurred_at) AS oldest_at FROM (
        SELECT occurred_at FROM mail_webhook_deliveries
        WHERE webhook_id = w.id AND status = 'waiting' AND email_id IS NOT NULL
        ORDER BY next_retry_at LIMIT {MOST_WAITING}
    ) AS counted
) AS d ON true
ORDER BY w.id
"""


async def read_webhook_figures(pool: asyncpg.Pool) -> list[Row]:
    """Return how each webhook's deliveries go.

    Returns:
        id, host (a URL may hold a secret), enabled, disabled_reason, last_error, failing_s (None:
        it does not fail), waiting (MOST_WAITING at most), oldest_waiting_s, given_up (events that
        nobody delivers any more, of which the last was given up within a day).
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    rows = [dict(row) for row in await pool.fetch(READ_FIGURES_SQL)]
    return [{'id': row.pop('id'), 'host': _host(row.pop('url'))} | row for row in rows]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ''
    except ValueError:  # written by hand
        return ''
