"""deploy/redis.conf and deploy/redis-users.acl on a real server.

Everybody can do their work, and nothing else.
"""

import os
import re
import signal

import pytest
import redis
from arq import create_pool
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from dev.debian import DebianRedis
from dev.valkey import Valkey
from dev.watchdog import Watchdog
from engine.redis_url import redis_settings
from reporting.servers import ServerAddresses
from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert, run
from tests.services.test_api_fleet import WORDS
from tests.services.test_ops_status import register
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

PASSWORD = 'loopback'
USERS = (
    'admin', 'email-worker', 'email-web', 'email-ingress', 'email-producer', 'email-operator',
)  # fmt: skip
Program = DebianRedis if 'TEST_ARQ_REDIS_URL' in os.environ else Valkey


class Guarded(Program):
    """A server started with our files; only its port, its directory and the passwords differ."""

    def command(self):
        command = super().command()
        acl = (ROOT / 'deploy/redis-users.acl').read_text()
        acl, changed = re.subn('>CHANGE-[a-z]+', f'>{PASSWORD}', acl)
        assert changed == len(USERS)
        (self.directory / 'users.acl').write_text(acl)
        conf = (ROOT / 'deploy/redis.conf').read_text()
        assert conf.count('/etc/redis/users.acl') == 1
        conf = conf.replace('/etc/redis/users.acl', str(self.directory / 'users.acl'))
        (self.directory / 'valkey.conf').write_text(
            f'{conf}port {self.port}\ndir "{self.directory}"\n'
        )
        return command

    def probe(self):
        with redis.Redis(
            port=self.port, username='admin', password=PASSWORD, socket_timeout=20
        ) as client:
            client.ping()

    def url_of(self, user):
        return f'redis://{user}:{PASSWORD}@127.0.0.1:{self.port}/1'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    watchdog = Watchdog()
    guarded = Guarded(tmp_path_factory.mktemp('guarded'), watchdog, PASSWORD)
    guarded.start()
    yield guarded
    guarded.stop()
    watchdog.close()


@pytest.fixture
async def admin(server):
    client = Redis.from_url(server.url_of('admin'))
    await client.flushall()
    await client.acl_log_reset()
    yield client
    await client.aclose()


@pytest.fixture
async def as_user(server, admin):
    """A client of one of the users."""
    clients = []

    def connect(user):
        clients.append(Redis.from_url(server.url_of(user)))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


async def heard(admin):
    """Whether somebody has found out that the server tells of jobs, and listens for them."""
    told = dict(await admin.pubsub_numsub('__keyspace@1__:arq:queue', '__keyspace@1__:mail:probe'))
    return told == {
        b'__keyspace@1__:arq:queue': 1,
        b'__keyspace@1__:mail:probe': 0,
    } and await admin.exists('mail:probe')


async def denials(admin):
    """What somebody tried and was refused: user and command, key or channel."""
    return [
        (entry['username'], entry['reason'], entry['object']) for entry in await admin.acl_log()
    ]


async def test_worker_runs_wholly_under_its_rights_and_a_producer_under_fewer(
    server, admin, start_worker, queue, inbox, env
):
    worker = await start_worker(ARQ_REDIS_URL=server.url_of('email-worker')).started()
    await wait_until(lambda: heard(admin), what='the worker listening for jobs')
    await wait_until(lambda: admin.zcard('mail:workers'), what='the record of the worker')
    producer = await create_pool(redis_settings(server.url_of('email-producer')))
    job = await producer.enqueue_job('send_email', await queue('anna@example.com'))
    assert (await job.result(timeout=DEADLINE_S, poll_delay=0.05))['status'] == 'sent'
    assert (await job.status()).value == 'complete'
    deferred = await producer.enqueue_job(
        'send_email', await queue('guarded+4xx-twice@example.com'), _defer_by=0.05
    )
    assert (await deferred.result(timeout=DEADLINE_S, poll_delay=0.05))['status'] == 'failed'
    await wait_until(lambda: inbox.accepted('guarded+4xx-twice@example.com'), what='the retries')
    duty = await producer.enqueue_job('check_service_health')
    assert (await duty.result(timeout=DEADLINE_S, poll_delay=0.05))['services'][
        'redis_queue'
    ] == 'up'
    await producer.aclose()
    for command in (
        ['inspect', 'ping'],
        ['control', 'rate_limit', '10/s', '--yes'],
        ['control', 'pause', '--yes'],
    ):
        answer = await run(env | {'ARQ_REDIS_URL': server.url_of('email-operator')}, *command)
        assert (command, answer.exit_status) == (command, 0), answer
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert not await admin.exists('mail:workers')
    assert await denials(admin) == []


FORBIDDEN = {
    'email-worker': """FLUSHALL, FLUSHDB, KEYS *, SCAN 0, CONFIG GET *, CONFIG SET dir /,
        SHUTDOWN, ACL LIST,
        SCRIPT FLUSH, MONITOR, MODULE LIST, REPLICAOF NO ONE, GET session:1, PUBLISH cache x, SAVE,
            CLIENT LIST,
        SWAPDB 0 1, CLIENT KILL TYPE normal""",
    'email-web': """FLUSHALL, KEYS *, CONFIG GET *, CLIENT LIST, MONITOR, GET session:1,
        GET arq:result:1, HGETALL h, PSETEX arq:result:1 1 x, PSETEX session:1 1 x,
        LRANGE l 0 -1, SET mail:worker:x y, SET x y, DEL arq:queue, ZADD cache:by-time 1 x,
            ZREM arq:queue 1, EXPIRE x 1, DEL arq:job:1,
        PUBLISH mail:control:1 x, SUBSCRIBE mail:events:1, EVAL return 0, XADD s * a b""",
    'email-ingress': """FLUSHALL, KEYS *, SCAN 0, CONFIG GET *, EVAL return 0, GET mail:ingress:h:1,
        SET mail:worker:x y, SET arq:job:1 y, ZADD mail:workers 1 x, ZADD arq:queue 1 1,
        DEL arq:queue, PUBLISH mail:control:1 x, SUBSCRIBE mail:events:1""",
    'email-producer': """FLUSHALL, KEYS *, SCAN 0, CONFIG GET *, EVAL return 0, DEL arq:queue,
        ZREM arq:queue 1,
        ZRANGE arq:queue 0 -1, PSETEX arq:result:1 1 x, PUBLISH mail:control:1 x,
        GET mail:workers, GET arq:retry:1,
        SUBSCRIBE mail:events:1, ZADD mail:workers 1 x, PSETEX session:1 1 x""",
    'email-operator': """FLUSHALL, KEYS *, CONFIG GET *, CONFIG SET dir /, SHUTDOWN,
        DEL session:1, ACL LIST,
        SET arq:result:1 x, PUBLISH cache x, MONITOR, GET session:1, LRANGE l 0 -1, HGETALL h,
            DEL cache:by-time,
        LPOP celery, EXPIRE x 1, ZREM cache:by-time 1""",
}


@pytest.mark.parametrize('user', FORBIDDEN)
async def test_user_is_refused_what_is_not_its_work(as_user, user):
    client = as_user(user)
    allowed = []
    for command in re.split(r',\s+', FORBIDDEN[user]):
        try:
            await client.execute_command(*command.split(' '))
        except NoPermissionError:
            continue
        allowed.append(command)
    assert allowed == []


async def test_script_of_a_worker_has_no_more_rights_than_the_worker(as_user):
    client = as_user('email-worker')
    for script in ("return redis.call('FLUSHALL')", "return redis.call('GET', 'session:1')"):
        with pytest.raises(Exception, match=r'(?i)permission|executing the script can'):
            await client.eval(script, 0)


@pytest.mark.parametrize('url', ['redis://127.0.0.1:{port}/1', 'redis://:wrong@127.0.0.1:{port}/1'])
async def test_nobody_gets_in_without_a_user_and_its_password(server, url):
    with pytest.raises(AuthenticationError):
        async with Redis.from_url(url.format(port=server.port)) as client:
            await client.ping()


async def test_server_keeps_jobs_and_tells_of_them(admin):
    told = await admin.config_get(
        'maxmemory-policy', 'appendonly', 'appendfsync', 'notify-keyspace-events'
    )
    assert told['maxmemory-policy'] == 'noeviction'
    assert (told['appendonly'], told['appendfsync']) == ('yes', 'everysec')
    assert set(told['notify-keyspace-events']) == {'K', 'z'}
    assert (await admin.config_get('maxmemory'))['maxmemory'] == str(256 * 1024 * 1024)


# What the doctor can do without: the configuration, and who else is connected.
WITHOUT = ('config|get', 'client|list', 'pubsub|channels')


async def test_operators_commands_need_no_more_than_the_operators_rights(server, admin, env):
    await admin.zadd('cache:by-time', {'1': 1})  # somebody else's
    producer = await create_pool(redis_settings(server.url_of('email-producer')))
    await producer.enqueue_job('send_email', 1)
    await producer.aclose()
    inspections = [
        ['inspect', what] for what in ('active', 'reserved', 'scheduled', 'stats', 'active_queues')
    ]
    reading = [
        ['status'],
        ['doctor', 'redis', 'celery', 'workers', 'jobs', 'clocks'],
        ['top', '--once'],
        ['queue', 'ls'],
        ['queue', 'peek'],
    ]
    changing = [['call', 'send_email', '2', '--yes'], ['result', 'x'], ['purge', 'queue', '--yes']]
    for command in (*reading, *inspections, *changing):
        answer = await run(env | {'ARQ_REDIS_URL': server.url_of('email-operator')}, *command)
        denied = [what for _, _, what in await denials(admin) if what not in WITHOUT]
        assert (command, denied, answer.document != {}) == (command, [], True)
    assert not await admin.exists('arq:queue')


async def test_web_page_needs_no_more_than_its_rights(server, admin, database):
    await admin.zadd('cache:by-time', {'1': 1})  # somebody else's
    await register(admin)
    producer = await create_pool(redis_settings(server.url_of('email-producer')))
    await producer.enqueue_job('send_email', 1)
    await producer.aclose()
    places = ServerAddresses(database.dsn, server.url_of('email-web'))
    for questions in (OVERVIEW, READINESS):
        watch = Watch(places, questions, deadline_s=DEADLINE_S)
        reading = await watch.look()
        await watch.close()
        assert (await denials(admin), reading.problems) == ([], {})
        if questions is OVERVIEW:
            assert [worker['worker'] for worker in reading.found['workers']] == ['mail-7@host:42']
            assert {queue['name']: queue['ready'] for queue in reading.found['queues']}[
                'arq:queue'
            ] == 1


async def test_api_wakes_workers_and_inspects_them_with_the_rights_of_the_web_server(
    server, admin, env, pool
):
    await admin.zadd('cache:by-time', {'1': 1})  # somebody else's
    await register(admin)
    async with open_desk(env, redis_url=server.url_of('email-web')) as desk:
        client = await desk.client(await desk.token())
        email_id = await insert(pool, status='failed', attempts=5)
        answer = await client.post(f'/admin/emails/{email_id}/retry')
        assert (answer.status_code, answer.json()['problems']) == (202, [])
        assert await admin.zcard('arq:queue') == 1
        for path in ('workers', 'queues', f'emails/{email_id}', *map('inspect/{}'.format, WORDS)):
            answer = await client.get(f'/api/{path}')
            assert (path, answer.status_code) == (path, 200)
            assert [p for p in answer.json()['problems'] if p['service']] == []
    # To explain, workers are asked where somebody may ask them.
    assert {what for _, _, what in await denials(admin)} <= {'publish'}
