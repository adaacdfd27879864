"""The servers of a rehearsal, and for each variant a database and databases of Redis of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis.asyncio

from dev.stack import Stack
from tests.chaos.fleet import Fleet
from tests.rehearsal.old_system import HERE, OldSystem
from tests.rehearsal.stage import Stage
from tests.rehearsal.variants import Variant

REDIS_DATABASES_A_LANE = 3
ENUM_SQL = "CREATE TYPE emailstatus AS ENUM ('pending', 'sending', 'sent', 'failed', 'cancelled');"
OPTIONAL_COLUMNS = """,
    email_type varchar(50), template_id varchar(100), template_data json, smtp_response text,
    smtp_code integer,
    last_attempt_at TIMESTAMP, sent_at TIMESTAMP, expires_at TIMESTAMP, user_id uuid,
    organization_id uuid,
    campaign varchar(40), updated_at TIMESTAMP"""


def schema_of(variant: Variant) -> str:
    """Return the SQL that makes the application's tables."""
    words = "('pending', 'sending', 'sent', 'failed', 'cancelled')"
    enum = {'enum': ENUM_SQL, 'ENUM': ENUM_SQL.replace(words, words.upper())}.get(
        variant.status, ''
    )
    sql = (
        (HERE / 'old_app' / 'schema.sql').read_text().partition('\n')[2]
    )  # the first line names the words below
    for word, value in {
        'OPTIONAL_COLUMNS': OPTIONAL_COLUMNS if variant.columns == 'all' else '',
        'STATUS_TYPE': 'emailstatus' if enum else 'varchar(20)',
        'STATUS_CHECK': f'CHECK (status IN {words})' if variant.status == 'check' else '',
        'TIMESTAMP': variant.timestamp,
        'ID_TYPE': variant.id_type,
    }.items():
        sql = sql.replace(word, value)
    return enum + sql


@dataclass
class Arena:
    """The embedded stack; each lane has databases of Redis of its own.

    The cache, arq's, Celery's.
    """

    directory: Path
    short: bool
    stack: Stack = field(default_factory=Stack)

    async def open(self) -> None:
        await asyncio.to_thread(self.stack.start)

    async def close(self) -> None:
        await asyncio.to_thread(self.stack.stop)

    def dsn(self, database: str) -> str:
        return urlunsplit(urlsplit(self.stack.postgres.url)._replace(path=f'/{database}'))

    @asynccontextmanager
    async def stage(self, variant: Variant, lane: int) -> AsyncIterator[Stage]:
        """Set up an installation of this kind, and end all its processes afterwards."""
        directory = self.directory / variant.slug
        directory.mkdir()
        database = f'rehearsal_{variant.slug}'
        admin = await asyncpg.connect(self.stack.postgres.url)
        await admin.execute(f'CREATE DATABASE {database}')
        await admin.close()
        conn = await asyncpg.connect(self.dsn(database))
        await conn.execute(schema_of(variant))
        environment, broker = await self.environment(variant, lane, directory)
        old = OldSystem(directory, environment)
        ours = environment | {
            'DATABASE_URL': self.dsn(database),
            'PYTHONPATH': str(HERE.parents[1]),
        }
        fleet = Fleet(directory, ours)
        try:
            yield Stage(
                variant, directory, conn, broker, old, fleet, ours, self.stack, short=self.short
            )
        finally:
            await old.close()
            fleet.close()
            await broker.aclose()
            await conn.close()

    async def environment(
        self, variant: Variant, lane: int, directory: Path
    ) -> tuple[dict[str, str], redis.asyncio.Redis]:
        """Return the old application's variables, and a client of its broker's database, which is
        empty.
        """
        cache, arq, own = (
            1 + lane * REDIS_DATABASES_A_LANE + number for number in range(REDIS_DATABASES_A_LANE)
        )
        broker_number = own if variant.own_broker else arq
        for number in (cache, arq, own):
            client = redis.asyncio.Redis.from_url(self.stack.valkey.url(number))
            await client.flushdb()
            await client.aclose()
        return self.stack.env | {
            'PATH': '/usr/bin:/bin',
            'ARQ_REDIS_URL': self.stack.valkey.url(arq),
            'DATABASE_URL': self.dsn(f'rehearsal_{variant.slug}'),
            'CELERY_BROKER_URL': self.stack.valkey.url(broker_number),
            'CACHE_URL': self.stack.valkey.url(cache),
            'REDIS_URL': self.stack.valkey.url(cache),
            'NAME': variant.slug,
            'LEDGER': str(directory / 'ledger.jsonl'),
            'LOG_FORMAT': 'json',
            'EMAIL_RETRY_BASE_DELAY': '2',
            'OLD_CELERY': json.dumps(variant.celery),
            'OLD_STATUS': variant.status,
            'OLD_TIMESTAMP': variant.timestamp,
            'OLD_COLUMNS': variant.columns,
            'OLD_WRITES_SENDING': '1' if variant.writes_sending else '',
            'OLD_RETRY_DELAY_S': str(variant.retry_delay_s),
        }, redis.asyncio.Redis.from_url(self.stack.valkey.url(broker_number))
