"""Workers are woken when a session has committed, and not when it has rolled back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis, RedisSettings
from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session

from engine.redis_url import redis_settings
from mail_outbox import queue_email, wake, wake_sync
from mail_outbox.fastapi import Outbox, SyncOutbox, answer_refusals, outbox_of
from mail_outbox.sqlalchemy import wake_after_commit
from mail_outbox.wake import CHANNEL
from tests.conftest import wait_until

HELLO: Any = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}
QUEUE = 'arq:queue'


@pytest.fixture
async def session(database: Any) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(database.dsn.replace('postgresql:', 'postgresql+asyncpg:'))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
def sync_engine(database: Any) -> Any:
    engine = create_engine(database.dsn.replace('postgresql:', 'postgresql+psycopg:'))
    yield engine
    engine.dispose()


@pytest.fixture
def settings(stack: Any) -> RedisSettings:
    return redis_settings(stack.env['ARQ_REDIS_URL'])


@pytest.fixture
async def notified(pool: Any) -> AsyncIterator[list[str]]:
    """What NOTIFY has told by now."""
    told: list[str] = []
    async with pool.acquire() as conn:
        await conn.add_listener(CHANNEL, lambda *said: told.append(said[2]))
        yield told
        await conn.reset()


async def jobs(redis: ArqRedis) -> list[Any]:
    return sorted((job.function, *job.args) for job in await redis.queued_jobs())


async def test_job_is_there_once_an_async_session_has_committed(session: Any, redis: Any) -> None:
    ids = []
    for _ in range(2):
        ids.append(await queue_email(session, **HELLO))
        wake_after_commit(session, ids[-1], redis)
    async with session.begin_nested():
        pass
    assert await redis.zcard(QUEUE) == 0, 'a savepoint is no commit'
    await session.commit()
    await wait_until(lambda: redis.zcard(QUEUE))
    assert await jobs(redis) == [('send_email', email_id) for email_id in ids]
    await session.execute(text('SELECT 1'))
    await session.commit()
    assert len(await jobs(redis)) == 2, 'each commit wakes for its own'


async def test_rollback_wakes_nobody(session: Any, redis: Any) -> None:
    wake_after_commit(session, await queue_email(session, **HELLO), redis)
    await session.rollback()
    kept = await queue_email(session, **HELLO)
    wake_after_commit(session, kept, redis)
    await session.commit()
    await wait_until(lambda: redis.zcard(QUEUE))
    assert await jobs(redis) == [('send_email', kept)]


async def test_session_that_is_not_awaited_wakes_by_a_connection_of_its_own(
    sync_engine: Any, redis: Any, settings: Any
) -> None:
    def order() -> int:  # in a thread, as an application without a loop is
        with scoped_session(lambda: Session(sync_engine))() as session, session.begin():
            email_id = queue_email(session, **HELLO)
            wake_after_commit(session, email_id, settings)
            return email_id

    email_id = await asyncio.to_thread(order)
    assert await jobs(redis) == [('send_email', email_id)]


async def test_scoped_async_session_wakes_as_well(session: Any, redis: Any) -> None:
    scoped = async_scoped_session(lambda: session, scopefunc=lambda: 1)
    wake_after_commit(scoped, await queue_email(scoped, **HELLO), redis)
    await scoped.commit()
    await wait_until(lambda: redis.zcard(QUEUE))


async def test_redis_that_is_away_costs_the_caller_nothing_but_a_warning(
    sync_engine: Any, caplog: Any
) -> None:
    nobody = RedisSettings(port=1)
    assert await asyncio.to_thread(wake_sync, 5, nobody) == 'sweep'
    assert 'job.not_enqueued' in caplog.text


async def test_many_are_woken_by_one_sweep(redis: Any) -> None:
    assert await wake(range(1, 102), redis=redis) == 'redis'
    assert await jobs(redis) == [('process_pending_emails',)]
    assert await wake([1, 2]) == 'sweep'
    assert await wake([], redis=redis) == 'sweep'


def application(get_connection: Any, redis: Any, outbox: type, **more: Any) -> FastAPI:
    app = FastAPI()
    answer_refusals(app)
    dependency = outbox_of(
        get_connection, redis=redis and (lambda request: request.app.state.redis)
    )
    app.state.redis = redis

    async def queue(
        request: Request,
        how: str,
        address: str,
        mail: Any = dependency,
        conn: Any = Depends(get_connection),  # noqa: B008 - there is no other way for what a test makes
    ) -> Any:
        assert type(mail) is outbox
        assert mail.conn is conn
        queued = mail.queue_email(**HELLO | {'recipient': address} | more)
        email_id = await queued if outbox is Outbox else queued
        request.app.state.at_the_end = mail.email_ids
        if how == 'commit':
            committed = conn.commit()
            if committed is not None:
                await committed
        if how == 'refuse':
            raise HTTPException(400)
        return email_id

    app.post('/')(queue)
    return app


async def post(app: FastAPI, how: str, address: str = 'anna@example.com') -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url='http://test') as client:
        return await client.post('/', params={'how': how, 'address': address})


@pytest.fixture
def get_session(database: Any) -> Any:
    async def get_session() -> AsyncIterator[AsyncSession]:
        engine = create_async_engine(database.dsn.replace('postgresql:', 'postgresql+asyncpg:'))
        async with AsyncSession(engine) as session:
            yield session
            await session.commit()  # what the endpoint has not committed
        await engine.dispose()

    return get_session


async def test_endpoint_that_commits_leaves_a_job(
    get_session: Any, redis: Any, notified: list[str]
) -> None:
    app = application(get_session, redis, Outbox)
    answer = await post(app, 'commit')
    assert answer.status_code == 200, answer.text
    assert await jobs(redis) == [('send_email', answer.json())]
    assert notified == []


async def test_session_that_commits_after_the_endpoint_wakes_by_notify(
    get_session: Any, redis: Any, notified: list[str]
) -> None:
    answer = await post(application(get_session, redis, Outbox), 'leave it')
    assert answer.status_code == 200, answer.text
    await wait_until(lambda: notified)
    assert await jobs(redis) == []


async def test_without_redis_notify_wakes(get_session: Any, notified: list[str]) -> None:
    assert (await post(application(get_session, None, Outbox), 'commit')).status_code == 200
    await wait_until(lambda: notified)


async def test_endpoint_that_raises_queues_nothing_and_wakes_nobody(
    get_session: Any, redis: Any, pool: Any, notified: list[str]
) -> None:
    app = application(get_session, redis, Outbox)
    assert (await post(app, 'refuse')).status_code == 400
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0
    assert (await jobs(redis), notified) == ([], [])


async def test_mistyped_address_is_answered_422_with_the_reason(get_session: Any) -> None:
    answer = await post(application(get_session, None, Outbox), 'commit', 'anna')
    assert answer.status_code == 422
    assert answer.json()['detail'].startswith("recipient: 'anna' is not an e-mail address")


async def test_key_of_another_e_mail_is_answered_409(get_session: Any, pool: Any) -> None:
    app = application(get_session, None, Outbox, idempotency_key='k')
    first = await post(app, 'commit')
    assert (await post(app, 'commit')).json() == first.json()
    other = await post(app, 'commit', 'bert@example.com')
    assert (other.status_code, "'k' was given to e-mail" in other.text) == (409, True)
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1


@pytest.mark.parametrize('how', ['commit', 'leave it'])
async def test_session_that_is_not_awaited_has_an_outbox_that_is_not(
    sync_engine: Any, redis: Any, notified: list[str], how: str
) -> None:
    def get_sync_session() -> Any:
        with Session(sync_engine) as session:
            yield session
            session.commit()

    answer = await post(application(get_sync_session, redis, SyncOutbox), how)
    assert answer.status_code == 200, answer.text
    if how == 'commit':
        assert await jobs(redis) == [('send_email', answer.json())]
    else:
        await wait_until(lambda: notified)


async def test_connection_of_asyncpg_in_a_transaction_of_its_dependency(
    pool: Any, redis: Any, notified: list[str]
) -> None:
    async def get_connection() -> Any:
        async with pool.acquire() as conn, conn.transaction():
            yield conn

    assert (await post(application(get_connection, redis, Outbox), 'leave it')).status_code == 200
    await wait_until(lambda: notified)
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
