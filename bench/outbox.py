"""The database of one run.

Made afresh, filled with e-mails, watched until all are sent, checked, dropped.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from db.migrate import migrate
from dev.postgres import Postgres

TEMPLATE = 'bench_template'
POLL_S = 0.02
LOOK_EVERY_S = 10.0
MANY = 10_000  # rows the server itself multiplies

# The cron sweep would send in batches what a run sends one job each. Its slots are marked as done
# in advance.
SKIP_SWEEPS_SQL = """
INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome)
SELECT 'process_pending_emails', slot, 'bench', now(), now(), 'done'
FROM generate_series(date_trunc('hour', now()), now() + interval '2 days', interval '5 minutes')
    AS slot
"""


class RunFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """Not every e-mail was sent exactly once, or not in time: there is nothing to measure."""


def with_database(dsn: str, name: str) -> str:
    """Return the DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f'/{name}'))


async def make_template(postgres: Postgres) -> None:
    """Make the migrated, empty database that every run starts from."""
    await _execute(postgres.url, f'CREATE DATABASE {TEMPLATE}')
    conn = await asyncpg.connect(with_database(postgres.url, TEMPLATE))
    try:
        await migrate(conn)
        await conn.execute(SKIP_SWEEPS_SQL)
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def fresh_outbox(postgres: Postgres, name: str) -> AsyncIterator['Outbox']:
    """Make a database of this name, drop it at the end.

    A checkpoint comes first, so that none that an earlier run caused falls into this one.
    """
    await _execute(postgres.superuser_url, 'CHECKPOINT')
    await _execute(postgres.url, f'CREATE DATABASE {name} TEMPLATE {TEMPLATE}')
    dsn = with_database(postgres.url, name)
    conn = await asyncpg.connect(dsn)
    try:
        yield Outbox(conn, dsn)
    finally:
        await conn.close()
        await _execute(postgres.superuser_url, f'DROP DATABASE {name} WITH (FORCE)')


async def _execute(dsn: str, statement: str) -> None:
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


class Outbox:
    """The outbox of one run.

    Attributes:
        conn: To its database.
        dsn: postgresql://... of its database, with the password.
    """

    def __init__(self, conn: asyncpg.Connection, dsn: str) -> None:
        self.conn = conn
        self.dsn = dsn

    async def execute(self, statement: str) -> None:
        """Run a statement that prepares the database."""
        await self.conn.execute(statement)

    INSERT_SQL = """
    INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type,
        next_retry_at, expires_at)
    SELECT recipient, subject, body_text, body_html, 'receipt', now(), now() + interval '1 day'
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS e (recipient, subject, body_text,
        body_html)
    RETURNING id
    """

    async def insert(self, count: int) -> list[int]:
        """Insert due e-mails, each with a text of 0.5 kB and an HTML body of 1.2 kB.

        Return their ids.

        Nobody sees them before `commit`: our worker would find them without being told, in a sweep
        of its own.
        """
        self._transaction = self.conn.transaction()
        await self._transaction.start()
        columns = list(zip(*(email(number) for number in range(count)), strict=True))
        ids = [row['id'] for row in await self.conn.fetch(self.INSERT_SQL, *columns)]
        await self.conn.execute('ANALYZE outbound_emails')
        return ids

    MULTIPLY_SQL = """
    INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type,
        next_retry_at, expires_at)
    SELECT recipient, subject, body_text, body_html, email_type, next_retry_at, expires_at
    FROM outbound_emails, generate_series(1, $2) WHERE id = ANY($1::bigint[])
    """

    async def insert_many(self, count: int) -> None:
        """Insert like `insert`, but a million in a minute.

        The server multiplies ten thousand e-mails.
        """
        ids = await self.insert(min(count, MANY))
        await self.conn.execute(self.MULTIPLY_SQL, ids, max(0, count // MANY - 1), timeout=3600)
        await self.conn.execute('ANALYZE outbound_emails')

    async def commit(self) -> None:
        """Make the inserted e-mails visible."""
        await self._transaction.commit()

    async def now(self) -> datetime:
        """Return the time by the clock that also stamps sent_at."""
        moment: datetime = await self.conn.fetchval('SELECT clock_timestamp()')
        return moment

    # Answered from the partial indexes: asking must not cost what is being measured.
    OPEN_SQL = """
    SELECT (SELECT count(*) FROM outbound_emails WHERE status IN ('pending', 'failed', 'uncertain')
                AND next_retry_at IS NOT NULL) + (SELECT count(*) FROM outbound_emails
                WHERE status = 'sending')
    """

    async def open_count(self) -> int:
        """Return how many e-mails are not final."""
        count: int = await self.conn.fetchval(self.OPEN_SQL)
        return count

    async def wait_until_sent(
        self,
        workers: Sequence[subprocess.Popen[bytes]],
        has_taken_all: Callable[[], bool],
        deadline_s: float,
    ) -> None:
        """Return when no row is open.

        Args:
            has_taken_all: Whether the relay has them all; cheap to ask. The database is asked often
                only afterwards.
        Raises:
            RunFailed: a worker ended, or the deadline passed.
        """
        end = time.monotonic() + deadline_s
        look_at = time.monotonic() + LOOK_EVERY_S
        while True:
            if await asyncio.to_thread(has_taken_all) or time.monotonic() > look_at:
                left = await self.open_count()
                if not left:
                    return
                look_at = time.monotonic() + LOOK_EVERY_S
                if time.monotonic() > end:
                    raise RunFailed(f'{left} e-mails are left after {deadline_s:.0f} s')
            for worker in workers:
                if worker.poll() is not None:
                    raise RunFailed(f'a worker ended with status {worker.returncode}')
            await asyncio.sleep(POLL_S)

    SENT_SQL = """
    SELECT count(*) AS emails, count(*) FILTER (WHERE status = 'sent' AND attempts = 1)
        AS sent_at_once,
        max(sent_at) AS last_sent_at
    FROM outbound_emails WHERE id = ANY($1::bigint[])
    """

    async def last_sent_at(self, ids: Sequence[int]) -> datetime:
        """Return when the last of these e-mails was recorded as sent.

        Raises:
            RunFailed: one is not sent, or took more than one attempt.
        """
        (row,) = await self.conn.fetch(self.SENT_SQL, ids)
        if not len(ids) == row['emails'] == row['sent_at_once']:
            raise RunFailed(
                f'of {len(ids)} e-mails {row["sent_at_once"]} were sent at the first attempt'
            )
        last: datetime = row['last_sent_at']
        return last

    ATTEMPTS_SQL = (
        "SELECT count(*) FROM email_attempts WHERE outcome = 'accepted' AND email_id = "
        'ANY($1::bigint[])'
    )

    async def accepted_attempts(self, ids: Sequence[int]) -> int:
        """Return how many accepted attempts the history has for these e-mails."""
        count: int = await self.conn.fetchval(self.ATTEMPTS_SQL, ids)
        return count


def email(number: int) -> tuple[str, str, str, str]:
    """Return recipient, subject, text (0.5 kB) and HTML body (1.2 kB) of an e-mail."""
    # Every fourth has a name that is not ASCII, as real ones have.
    name = 'Zoë Müller' if number % 4 == 0 else 'Chris Miller'
    lines = [
        f'{item}. Article number {number}-{item}: 1 piece at 12.50, sent within two days.'
        for item in range(6)
    ]
    link = f'https://shop.example.com/orders/{number:08d}?from=mail'
    text = '\n'.join(
        [f'Hello {name},', '', 'thank you for your order:', '', *lines, '', f'See it at {link}', '']
    )
    cells = ''.join(
        f'<tr><td style="padding:4px;border-bottom:1px solid #ddd">{line}</td></tr>\n'
        for line in lines
    )
    html = (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Your order</title></head>\n'
        '<body style="font-family:sans-serif;color:#222;margin:0;padding:24px;'
        'background:#f5f5f5">\n'
        f'<h1 style="font-size:20px">Hello {name},</h1>\n<p>thank you for your order:</p>\n'
        f'<table style="border-collapse:collapse;width:100%">\n{cells}</table>\n'
        f'<p><a href="{link}" style="color:#0366d6">See your order</a></p>\n</body></html>\n'
    )
    return f'customer-{number}@example.org', f'Your order {number:08d}', text, html
