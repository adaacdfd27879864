"""Every kind of connection that an application may queue on, to the same database."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import django
import django.conf
import psycopg
from django.db import connection as django_connection
from django.db import transaction as django_transaction
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

WAYS = (
    'asyncpg', 'asyncpg pool', 'psycopg', 'psycopg async',
    'sqlalchemy session', 'sqlalchemy connection',
    'sqlalchemy async session', 'sqlalchemy async connection', 'sqlalchemy async psycopg',
    'django',
)  # fmt: skip


@dataclass
class Open:
    """A connection in which the next statement is the first of its transaction."""

    conn: Any
    commit: Callable[[], Any]
    rollback: Callable[[], Any]


@asynccontextmanager
async def opened(way: str, dsn: str) -> AsyncIterator[Open]:
    """Open a connection of one of WAYS."""
    kind = way.partition(' ')[0]
    async with {
        'asyncpg': _asyncpg,
        'psycopg': _psycopg,
        'sqlalchemy': _sqlalchemy_async if 'async' in way else _sqlalchemy,
        'django': _django,
    }[kind](way, dsn) as found:
        yield found


async def awaited(value: Any) -> Any:
    return await value if hasattr(value, '__await__') else value


@asynccontextmanager
async def _asyncpg(way: str, dsn: str) -> AsyncIterator[Open]:
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
    conn = await pool.acquire() if 'pool' in way else await asyncpg.connect(dsn)
    transaction = conn.transaction()
    await transaction.start()
    yield Open(conn, transaction.commit, transaction.rollback)
    await (pool.release(conn) if 'pool' in way else conn.close())
    await pool.close()


@asynccontextmanager
async def _psycopg(way: str, dsn: str) -> AsyncIterator[Open]:
    if 'async' in way:
        conn: Any = await psycopg.AsyncConnection.connect(dsn)
    else:
        conn = psycopg.connect(dsn)
    yield Open(conn, conn.commit, conn.rollback)
    await awaited(conn.close())


@asynccontextmanager
async def _sqlalchemy(way: str, dsn: str) -> AsyncIterator[Open]:
    engine = create_engine(dsn.replace('postgresql://', 'postgresql+psycopg://'))
    with Session(engine) if 'session' in way else engine.connect() as conn:
        yield Open(conn, conn.commit, conn.rollback)
    engine.dispose()


@asynccontextmanager
async def _sqlalchemy_async(way: str, dsn: str) -> AsyncIterator[Open]:
    driver = 'psycopg' if 'psycopg' in way else 'asyncpg'
    engine = create_async_engine(dsn.replace('postgresql://', f'postgresql+{driver}://'))
    async with AsyncSession(engine) if 'session' in way else engine.connect() as conn:
        yield Open(conn, conn.commit, conn.rollback)
    await engine.dispose()


@asynccontextmanager
async def _django(_: str, dsn: str) -> AsyncIterator[Open]:
    use_django(dsn)
    outer = django_transaction.atomic()
    outer.__enter__()

    def rollback() -> None:
        django_transaction.set_rollback(True)
        outer.__exit__(None, None, None)

    yield Open(django_connection, lambda: outer.__exit__(None, None, None), rollback)
    django_connection.close()


def use_django(dsn: str) -> None:
    """Have Django's default connection go to this database."""
    # The tests' own loop runs in this thread; nothing else shares the connection.
    os.environ['DJANGO_ALLOW_ASYNC_UNSAFE'] = '1'
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            DATABASES={'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'later'}},
            USE_TZ=True,
        )
        django.setup()
    parts = urlsplit(dsn)
    django_connection.close()
    django_connection.settings_dict.update(
        NAME=parts.path[1:],
        USER=parts.username,
        PASSWORD=parts.password,
        HOST=parts.hostname,
        PORT=parts.port,
    )
