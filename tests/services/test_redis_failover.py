"""Redis moves: three sentinels elect another master, or a name leads elsewhere.

Mail goes on, once.
"""

import asyncio
from collections import Counter

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from dev.sentinel import Replicated, Sentinel
from dev.watchdog import Watchdog
from engine.connection import open_redis
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize
from fleet.channel import ask
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.gate import Gate

PASSWORD = 'geheim'
SENTINELS_PASSWORD = 'geheimer'


@pytest.fixture
async def servers(tmp_path):
    """A master and a replica that are in step."""
    watchdog = Watchdog()
    master = Replicated(tmp_path / 'master', watchdog, PASSWORD)
    await asyncio.to_thread(master.start)
    replica = Replicated(tmp_path / 'replica', watchdog, PASSWORD, master)
    await asyncio.to_thread(replica.start)
    client = client_of(replica.url(1))
    await wait_until(lambda: in_step(client), what='a replica in step')
    await client.aclose()
    yield master, replica
    for server in (master, replica):
        await asyncio.to_thread(server.kill)
    watchdog.close()


async def in_step(client):
    return (await client.info('replication')).get('master_link_status') == 'up'


@pytest.fixture
async def sentinels(servers, tmp_path):
    master, _ = servers
    watchdog = Watchdog()
    three = [
        Sentinel(tmp_path / f'sentinel-{n}', watchdog, SENTINELS_PASSWORD, master) for n in range(3)
    ]
    for sentinel in three:
        await asyncio.to_thread(sentinel.start)
    for sentinel in three:
        await wait_until(
            lambda s=sentinel: s.sees() == (master.port, 1, 2), what='all know each other'
        )
    yield three
    for sentinel in three:
        await asyncio.to_thread(sentinel.kill)
    watchdog.close()


def url_of(sentinels, database=1):
    hosts = ','.join(f'127.0.0.1:{sentinel.port}' for sentinel in sentinels)
    options = f'master=mymaster&sentinel_password={SENTINELS_PASSWORD}'
    return f'redis+sentinel://:{PASSWORD}@{hosts}/{database}?{options}'


def client_of(url):
    return open_redis(
        redis_settings(url), 'arq:queue', job_serializer=serialize, job_deserializer=deserialize
    )


async def queue(pool, count, first=0):
    async with pool.acquire() as conn, conn.transaction():
        return [
            await queue_email(
                conn, recipient=f'anna{n}@example.com', subject='Hello', body_text='Hello.'
            )
            for n in range(first, first + count)
        ]


async def test_client_of_sentinels_writes_to_the_master_in_its_database(servers, sentinels):
    master, _ = servers
    redis = client_of(url_of(sentinels, 3))
    await redis.set('key', 'value')
    direct = client_of(master.url(3))
    assert await direct.get('key') == b'value'
    await redis.aclose(close_connection_pool=True)
    await direct.aclose(close_connection_pool=True)


async def test_client_finds_the_next_sentinel_when_the_first_is_gone(servers, sentinels):
    await asyncio.to_thread(sentinels[0].kill)
    redis = client_of(url_of(sentinels))
    assert await redis.ping()
    await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize('wrong', ['master=other', 'sentinel_password=wrong'])
async def test_sentinels_that_do_not_know_us_or_the_master_are_a_redis_that_is_away(
    servers, sentinels, wrong
):
    redis = client_of(
        url_of(sentinels).partition('?')[0]
        + f'?{"" if "master" in wrong else "master=mymaster&"}{wrong}'
    )
    with pytest.raises(RedisConnectionError) as raised:
        await redis.ping()
    assert PASSWORD not in str(raised.value)
    await redis.aclose(close_connection_pool=True)


async def test_mail_in_flight_survives_the_death_of_the_master_and_the_worker_is_served_by_the_next(
    servers, sentinels, start_worker, pool, inbox
):
    master, replica = servers
    worker = start_worker(ARQ_REDIS_URL=url_of(sentinels), REDIS_URL=url_of(sentinels, 0))
    await worker.started()
    redis = client_of(url_of(sentinels))
    for email_id in await queue(pool, 100):
        await redis.enqueue_job('send_email', email_id)
    await wait_until(inbox.accepted, what='the first e-mail')
    await asyncio.to_thread(master.kill)
    await queue(pool, 100, first=100)  # whose jobs nobody takes
    await wait_until(lambda: sentinels[0].sees()[0] == replica.port, what='an election')

    async def obeys():
        try:
            return (await ask(redis, 'ping')).replies
        except (RedisConnectionError, OSError):
            return None

    await wait_until(obeys, 10, what='a worker that obeys')
    (last,) = await queue(pool, 1, first=200)
    job = await redis.enqueue_job('send_email', last)
    assert (await job.result(timeout=30))['status'] == 'sent'
    sent = "SELECT count(*) = 201 FROM outbound_emails WHERE status = 'sent'"
    await wait_until(lambda: pool.fetchval(sent), what='all e-mails')
    copies = Counter(entry['rcpt_to'][0] for entry in inbox.accepted())
    assert (len(copies), set(copies.values())) == (201, {1})
    await redis.aclose(close_connection_pool=True)
    worker.stop()
    assert worker.process.returncode == 0


async def test_master_that_comes_back_as_a_replica_is_left(servers, sentinels):
    """It was elected out while it was frozen; our connections to it are open all the time."""
    master, replica = servers
    redis = client_of(url_of(sentinels))
    await redis.set('key', 'old')
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe('channel')
        await asyncio.to_thread(master.freeze)
        await wait_until(lambda: sentinels[0].sees()[0] == replica.port, what='an election')
        await asyncio.to_thread(master.thaw)

        async def is_written():
            try:
                return await redis.set('key', 'new')
            except (RedisConnectionError, OSError):
                return None

        await wait_until(is_written, what='a write')
        direct = client_of(replica.url(1))
        await wait_until(lambda: holds(direct, b'new'))
        await direct.aclose(close_connection_pool=True)
    await redis.aclose(close_connection_pool=True)


async def holds(client, value):
    return await client.get('key') == value


async def test_worker_whose_redis_was_demoted_follows_the_name_and_obeys_again(
    servers, start_worker, pool, inbox
):
    """Behind a name that moves: connections to the demoted server stay open, and say READONLY."""
    master, replica = servers
    async with Gate(master.url(1)) as gate:
        worker = start_worker(ARQ_REDIS_URL=gate.url)
        await worker.started()
        admin, promoted = client_of(master.url(1)), client_of(replica.url(1))
        await wait_until(lambda: asked(admin), what='a worker that obeys')
        await promoted.replicaof('NO', 'ONE')
        gate.lead_to('127.0.0.1', replica.port)  # new connections only
        await admin.replicaof('127.0.0.1', str(replica.port))
        await wait_until(lambda: asked(promoted), what='a worker that obeys by the other server')
        (email_id,) = await queue(pool, 1)
        job = await promoted.enqueue_job('send_email', email_id)
        assert (await job.result(timeout=30))['status'] == 'sent'
        assert [entry['rcpt_to'] for entry in inbox.accepted()] == [['anna0@example.com']]
        for client in (admin, promoted):
            await client.aclose(close_connection_pool=True)


async def asked(client):
    return (await ask(client, 'ping')).replies


@pytest.mark.parametrize('pipelined', [False, True])
async def test_reply_that_a_server_has_moved_ends_all_connections_of_the_client(servers, pipelined):
    _, replica = servers
    redis = client_of(replica.url(1))  # a replica refuses to write
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe('channel')
        listening = pubsub.connection
        write = (
            redis.pipeline(transaction=True).set('key', 'value').execute()
            if pipelined
            else redis.set('key', 'value')
        )
        with pytest.raises(RedisConnectionError):
            await write
        assert listening._writer is None or listening._writer.transport.is_closing()
    await redis.aclose(close_connection_pool=True)


async def test_replica_that_lost_its_master_and_serves_nothing_is_left(servers):
    master, replica = servers
    redis = client_of(replica.url(1))
    await redis.config_set('replica-serve-stale-data', 'no')
    await asyncio.to_thread(master.kill)

    async def is_refused():
        try:
            await redis.get('key')
        except RedisConnectionError as error:
            return 'MASTERDOWN' in str(error)
        return False

    await wait_until(is_refused)
    await redis.aclose(close_connection_pool=True)


async def test_script_that_may_not_write_counts_as_a_demoted_server(servers):
    _, replica = servers
    redis = client_of(replica.url(1))
    with pytest.raises(RedisConnectionError):
        await redis.eval("return redis.call('SET', KEYS[1], 'x')", 1, 'key')
    await redis.aclose(close_connection_pool=True)
