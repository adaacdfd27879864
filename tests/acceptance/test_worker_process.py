"""The worker as its user runs it.

`arq worker.WorkerSettings`, a stock arq producer, mail read back from the inbox.
"""

import asyncio
import email
import email.policy
import signal
import socket

import asyncpg
import pytest
from arq import create_pool
from arq.jobs import Job
from redis.exceptions import RedisError

from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email
from mail_outbox.wake import wake_workers
from tests.conftest import DEADLINE_S, SHORT_LEASE, wait_until
from tests.unit.scripted_relay import ScriptedRelay


@pytest.fixture
async def producer(env):
    """Stock arq: pickle, no serializer set."""
    pool = await create_pool(redis_settings(env['ARQ_REDIS_URL']))
    yield pool
    await pool.aclose()


@pytest.fixture
def queue(pool):
    async def queue(recipient='anna@example.com', **parts):
        parts = {'subject': 'Hello', 'body_text': 'Hello, Anna.'} | parts
        async with pool.acquire() as conn, conn.transaction():
            return await queue_email(conn, recipient=recipient, **parts)

    return queue


LISTENING = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = "
    'current_database()'
)


def mails_begun(inbox):
    return inbox.control.stats()['primary']['transactions']


async def status_is(pool, email_id, *statuses):
    async def look():
        return (
            await pool.fetchval('SELECT status FROM outbound_emails WHERE id = $1', email_id)
            in statuses
        )

    await wait_until(look, what=f'{email_id} {statuses}')


async def test_enqueued_email_is_delivered_and_its_result_read_by_stock_arq(
    start_worker, producer, queue, inbox, pool
):
    await start_worker().started()
    email_id = await queue(
        'Änna Müller <anna@example.com>', subject='Grüße ☃', body_html='<p>Hé</p>'
    )
    job = await producer.enqueue_job('send_email', email_id)
    assert await job.result(timeout=DEADLINE_S, poll_delay=0.05) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    (entry,) = inbox.accepted('anna@example.com')
    message = email.message_from_bytes(inbox.message(entry), policy=email.policy.default)
    assert message['Subject'] == 'Grüße ☃'
    assert message['To'].addresses[0].display_name == 'Änna Müller'
    assert [part.get_content_type() for part in message.walk()] == [
        'multipart/alternative',
        'text/plain',
        'text/html',
    ]
    assert entry['tls']
    row = await pool.fetchrow('SELECT * FROM outbound_emails WHERE id = $1', email_id)
    assert (row['status'], row['message_id']) == ('sent', entry['message_id'])


async def test_deferred_email_is_retried_by_a_deferred_job_until_accepted(
    start_worker, producer, queue, inbox, pool
):
    await start_worker().started()
    email_id = await queue('anna+4xx-twice@example.com')
    await producer.enqueue_job('send_email', email_id)
    await status_is(pool, email_id, 'sent')
    outcomes = await pool.fetch(
        'SELECT outcome FROM email_attempts WHERE email_id = $1 ORDER BY started_at', email_id
    )
    assert [row['outcome'] for row in outcomes] == ['deferred', 'deferred', 'accepted']


async def test_job_whose_pickle_names_a_class_is_refused_and_recorded_as_failed(
    start_worker, producer
):
    worker = await start_worker().started()
    job = await producer.enqueue_job(
        'send_email', asyncio.TimeoutError
    )  # pickled by reference: a global
    await wait_until(lambda: 'refused to load' in worker.log)
    with pytest.raises(Exception, match='unable to deserialize job'):
        await job.result(timeout=DEADLINE_S, poll_delay=0.05)
    assert worker.process.poll() is None


async def test_unknown_function_and_wrong_arguments_end_as_failed_jobs(start_worker, producer):
    worker = await start_worker().started()
    unknown = await producer.enqueue_job('no_such_job', 1)
    wrong = await producer.enqueue_job('send_email', 1, 2, 3)
    for job in (unknown, wrong):
        await wait_until(lambda job=job: Job(job.job_id, producer).result_info(), what='result')
        assert not (await Job(job.job_id, producer).result_info()).success
    assert worker.process.poll() is None


async def test_sigkill_mid_send_delivers_after_the_lease_by_another_worker(
    start_worker, producer, queue, inbox, pool
):
    victim = await start_worker(**SHORT_LEASE).started()
    inbox.control.misbehave('rcpt', 'stall', relay='primary', times=1)
    begun, email_id = mails_begun(inbox), await queue()
    await producer.enqueue_job('send_email', email_id)
    await wait_until(
        lambda: mails_begun(inbox) > begun
    )  # RCPT comes with MAIL: the stall is this worker's
    await start_worker().started()
    victim.process.send_signal(signal.SIGKILL)
    await status_is(pool, email_id, 'sent')
    assert len(inbox.accepted('anna@example.com')) == 1
    rows = await pool.fetch(
        'SELECT outcome FROM email_attempts WHERE email_id = $1 ORDER BY started_at', email_id
    )
    assert [row['outcome'] for row in rows] == ['lost', 'accepted']


async def test_sigterm_lets_a_running_transaction_finish(
    start_worker, producer, queue, inbox, pool
):
    worker = await start_worker().started()
    inbox.control.misbehave('dot', 'stall', relay='primary', times=1, seconds=1)
    email_id = await queue()
    await producer.enqueue_job('send_email', email_id)
    await status_is(
        pool, email_id, 'sending', 'sent'
    )  # sent already only where a second is shorter than a look
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    row = await pool.fetchrow(
        'SELECT status, attempts FROM outbound_emails WHERE id = $1', email_id
    )
    assert tuple(row) == ('sent', 1)
    assert len(inbox.accepted()) == 1


async def test_sigterm_releases_what_has_not_reached_data_and_burns_no_attempt(
    start_worker, producer, queue, inbox, pool
):
    worker = await start_worker(WORKER_DRAIN_S='1').started()
    inbox.control.misbehave('rcpt', 'stall', relay='primary', times=1)
    begun, email_id = mails_begun(inbox), await queue()
    await producer.enqueue_job('send_email', email_id)
    await wait_until(
        lambda: mails_begun(inbox) > begun
    )  # RCPT comes with MAIL: the stall is this worker's
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    row = await pool.fetchrow(
        'SELECT status, attempts FROM outbound_emails WHERE id = $1', email_id
    )
    assert tuple(row) == ('pending', 0)
    await start_worker().started()
    await status_is(pool, email_id, 'sent')


async def test_worker_stops_on_a_schema_that_is_not_its_own(start_worker, database):
    conn = await asyncpg.connect(database.dsn)
    await conn.execute("DELETE FROM _pogo_migration WHERE migration_id = '0001_outbox'")
    await conn.close()
    worker = start_worker()
    assert await worker.ended() == 1
    assert 'run `python -m db.migrate`' in worker.log
    assert 'Traceback' not in worker.log


async def test_worker_stops_on_a_wrong_setting_with_one_line(start_worker):
    worker = start_worker(SMTP_PORT='many')
    assert await worker.ended() == 1
    (line,) = worker.log.strip().splitlines()
    assert 'SMTP_PORT' in line


def must_own_redis(env, stack):
    if env['ARQ_REDIS_URL'] != stack.env['ARQ_REDIS_URL']:
        pytest.fail(
            'this test must be able to kill or freeze its Redis: run it on the embedded stack'
        )


async def test_worker_outlives_redis_and_sweeps_without_it(
    start_worker, producer, queue, inbox, pool, stack, env
):
    must_own_redis(env, stack)
    worker = await start_worker().started()
    stack.valkey.kill()
    try:
        email_id = await queue()
        await status_is(pool, email_id, 'sent')
    finally:
        stack.valkey.start()
    await wait_until(lambda: 'redis.reconnected' in worker.log)
    email_id = await queue('bob@example.com')
    await wait_until(lambda: try_enqueue(producer, email_id))
    await status_is(pool, email_id, 'sent')
    assert worker.process.poll() is None


async def test_worker_sweeps_after_redis_was_frozen_for_less_than_its_own_timeout(
    start_worker, producer, queue, pool, stack, env
):
    must_own_redis(env, stack)
    worker = await start_worker().started()
    stack.valkey.freeze()
    try:
        email_id = await queue()
        with pytest.raises(
            TimeoutError
        ):  # the application gives up, and nobody will enqueue this e-mail again
            async with asyncio.timeout(3):  # the worker looks at Redis every 2 s
                await producer.enqueue_job('send_email', email_id)
    finally:
        stack.valkey.thaw()
    await status_is(pool, email_id, 'sent')
    assert worker.process.poll() is None


async def try_enqueue(producer, email_id):
    try:
        return await producer.enqueue_job('send_email', email_id)
    except (RedisError, OSError):
        return None


async def test_two_workers_share_a_queue_and_send_each_email_once(
    start_worker, producer, queue, inbox, pool
):
    for worker in (start_worker(), start_worker()):
        await worker.started()
    ids = [await queue(f'user{n}@example.com') for n in range(60)]
    await asyncio.gather(*(producer.enqueue_job('send_email', i) for i in ids for _ in range(2)))

    async def all_sent():
        return (
            await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'sent'") == 60
        )

    await wait_until(all_sent)
    assert len(inbox.accepted()) == 60
    assert len({entry['message_id'] for entry in inbox.accepted()}) == 60


async def test_notify_wakes_a_worker_without_redis(start_worker, inbox, pool):
    worker = await start_worker().started()
    await wait_until(lambda: pool.fetchval(LISTENING))
    async with pool.acquire() as conn, conn.transaction():
        email_id = await queue_email(
            conn, recipient='n@example.com', subject='s', body_text='t', notify=True
        )
    await status_is(pool, email_id, 'sent')
    assert worker.process.poll() is None


async def test_wake_workers_falls_back_to_notify_when_redis_refuses(
    start_worker, redis, queue, pool
):
    await start_worker().started()
    await redis.config_set('maxmemory', '1')
    try:
        email_id = await queue()
        assert await wake_workers(redis, pool, email_id) == 'notify'
        await status_is(pool, email_id, 'sent')
    finally:
        await redis.config_set('maxmemory', '0')


async def test_worker_frozen_for_longer_than_its_lease_abandons_the_send_before_data(
    start_worker, producer, queue, inbox, pool
):
    frozen = await start_worker(SMTP_COMMAND_TIMEOUT_S='600', **SHORT_LEASE).started()
    inbox.control.misbehave('rcpt', 'stall', relay='primary', times=1)
    begun, email_id = mails_begun(inbox), await queue()
    await producer.enqueue_job('send_email', email_id)
    await wait_until(
        lambda: mails_begun(inbox) > begun
    )  # RCPT comes with MAIL: the stall is this worker's
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        await start_worker().started()
        await status_is(pool, email_id, 'sent')  # by the other, after the lease
        inbox.control.listen(
            'primary', on=False
        )  # cuts the frozen one's connection, so that it goes on at the backup
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    await wait_until(lambda: 'lease.lost' in frozen.log)
    assert len(inbox.accepted('anna@example.com')) == 1


class PausingRelay(ScriptedRelay):
    """Reads the first body that comes no further than its beginning, until it is told to."""

    def __init__(self):
        super().__init__({'BODY': ()})
        self.go_on = asyncio.Event()

    async def __aenter__(self):
        listening = socket.socket()
        listening.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024
        )  # little is on its way unread
        listening.bind(('127.0.0.1', 0))
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self.port = listening.getsockname()[1]
        return self

    async def _do(self, key, session, reader, writer):
        if key == 'BODY' and session is self.sessions[0]:
            await self.go_on.wait()
        return await super()._do(key, session, reader, writer)


async def test_worker_frozen_in_a_body_for_longer_than_its_lease_sends_no_dot(
    start_worker, producer, queue, pool
):
    async with PausingRelay() as relay:
        where = {'SMTP_HOST': '127.0.0.1', 'SMTP_PORT': str(relay.port), 'SMTP_USE_TLS': 'false',
            'SMTP_USER': '',
                 'SMTP_BACKUP_HOST': ''}  # fmt: skip
        frozen = await start_worker(**where, **SHORT_LEASE).started()
        line = 'x' * 70 + '\n'
        email_id = await queue(body_text=line * 100_000)  # more than the kernel keeps for us
        await producer.enqueue_job('send_email', email_id)
        await relay.until(lambda: relay.sessions and relay.sessions[0].body_bytes)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            await start_worker(**where).started()
            await status_is(pool, email_id, 'sent')  # by the other, after the lease
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        relay.go_on.set()
        await wait_until(lambda: 'lease.lost' in frozen.log)
        await relay.until(lambda: not relay.sessions[0].open)
        assert len(relay.bodies) == 1
        assert relay.sessions[0].body_bytes > 0


async def test_line_of_a_sent_email_names_job_email_attempt_and_worker(
    start_worker, producer, queue
):
    worker = await start_worker(LOG_FORMAT='json').started()
    email_id = await queue()
    job = await producer.enqueue_job('send_email', email_id)
    await job.result(timeout=DEADLINE_S, poll_delay=0.05)
    line = await wait_until(
        lambda: next((e for e in worker.events() if e['event'] == 'email.sent'), None)
    )
    assert (line['job_id'], line['email_id'], line['attempt']) == (job.job_id, email_id, 1)
    assert line['worker'].endswith(f':{worker.process.pid}')
    assert 'anna' not in worker.log
