"""The web page on real servers, in this process.

Its numbers, and what is left when a server is away or slow.
"""

import asyncio
import contextlib
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reporting.servers import ServerAddresses
from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.api_desk import api_for
from tests.services.gate import Gate, Way
from tests.services.ops_desk import as_document, insert, run
from tests.services.test_ingress_registry import write as write_ingress
from tests.services.test_ops_status import AN_HOUR_AGO, IN_AN_HOUR, register
from web.application import make_application
from web.questions import OVERVIEW, READINESS
from web.watch import Source, Watch

DOCUMENT = (ROOT / 'docs/metrics.md').read_text()
TABLE = re.findall(r'^\| `(email_\w+)` \| (\w+) \|(.*?)\| (.*) \|$', DOCUMENT, re.MULTILINE)


@pytest.fixture
async def open_page(env):
    """Open the page: a client and its two watches.

    Answers are never given again, and servers have all the time.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def open_page(deadline_s=DEADLINE_S, **places):
            at = ServerAddresses(
                **(
                    {'postgres_dsn': env['DATABASE_URL'], 'redis_url': env['ARQ_REDIS_URL']}
                    | places
                )
            )
            watches = [
                Watch(at, asked, deadline_s=deadline_s, shared_s=0)
                for asked in (OVERVIEW, READINESS)
            ]
            for watch in watches:
                stack.push_async_callback(watch.close)
            app = make_application(*watches, token=None, loopback_only=True, api=api_for(at))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url='http://localhost'
            )
            return await stack.enter_async_context(client)

        yield open_page


@pytest.fixture
async def seeded(pool, redis):
    """Something for every metric."""
    await register(redis, version='1.2', state='paused', sending=2, uptime_s=90.5,
        loop_lag_ms=250.0,
                   concurrency={'emails': 40, 'jobs': 500},
                   routes=[{'name': 'rest', 'match': '{}', 'chain': '[{"eu": 1}]'}],
                   slow_domains=[{'name': 'example.org', 'retry_in_s': 30.0}],
                   outcomes={'accepted': 7, 'lease-lost': 1, 'unheard-of': 9})  # fmt: skip
    await write_ingress(redis, version='1.2', reply_s={'0.5': 0.01, '0.95': 0.02, '0.99': 0.03},
                        certificate_expires_at=4e9)  # fmt: skip
    await redis.enqueue_job('send_email', 1)
    await redis.enqueue_job('send_email', 2, _defer_by=3600, _queue_name='elsewhere')
    await insert(pool, next_retry_at=AN_HOUR_AGO)
    await insert(pool, next_retry_at=IN_AN_HOUR)
    await insert(pool, status='failed', attempts=1)
    await insert(pool, status='uncertain', attempts=1)
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        'relay, smtp_code, '
        "enhanced_code, reply, duration_ms) SELECT n, now() - interval '1 minute', 1, 'w', "
        "'rejected', 'rcpt', "
        "'primary', 550, '5.1.1', 'no anna@example.com here', n * 10 FROM generate_series(1, 101) "
        'AS n'
    )
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome) VALUES '
        "('sweep', now(), 'w', now(), now(), 'done'), ('tidy', now(), 'w', now(), now(), 'error'), "
        "('tidy', now() - interval '1 hour', 'w', now(), to_timestamp(1767225600), 'done'), "
        "('tidy', now() - interval '2 hours', 'w', now(), now(), 'done'), "
        "('never', now(), 'w', now(), now(), 'skipped')"
    )
    await pool.execute(
        'INSERT INTO service_health (service_name, status, response_time_ms, checked_at) VALUES '
        "('mongodb', 'down', 1, now()), ('redis_queue', 'up', 1, now()), "
        "('gone', 'up', 1, now() - interval '4 minutes')"
    )
    await pool.execute(
        "INSERT INTO mail_quotas (organization_id, emails_per_day) VALUES ('7', 100), ('*', 5)"
    )
    await pool.execute(
        'INSERT INTO mail_webhooks (url, secret, created_by) '
        "VALUES ('https://x.example/', 'x', 'ops')"
    )
    await pool.execute(
        "INSERT INTO mail_switches (kind, name, paused_by) VALUES ('email_type', 'news', 'anna')"
    )


async def scrape(client):
    """Return samples by name and labels."""
    answer = await client.get('/metrics')
    assert answer.status_code == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_page_has_exactly_the_metrics_of_the_document(open_page, seeded):
    answer = await (await open_page()).get('/metrics')
    assert answer.headers['content-type'] == 'text/plain; version=0.0.4; charset=utf-8'
    families = re.findall(r'^# HELP (\S+) (.*)\n# TYPE \1 (\S+)$', answer.text, re.MULTILINE)
    assert [(name, kind, told) for name, told, kind in families] == [
        (name, kind, told.replace('`', '')) for name, kind, _, told in TABLE
    ]
    for name, _, described, _ in TABLE:
        labels = re.findall(rf'^{name}(?:{{(.*)}})? \S+$', answer.text, re.MULTILINE)
        assert labels, f'{name} has no sample'
        for sample in labels:
            assert set(re.findall(r'(\w+)="', sample)) == set(re.findall(r'`(\w+)`', described)), (
                name
            )
        for label, values in re.findall(r'`(state|outcome|quantile|source)`: ([^;`]+)', described):
            seen = {
                value for sample in labels for value in re.findall(rf'{label}="([^"]*)"', sample)
            }
            assert seen == set(values.strip().split(', ')), name


async def test_every_word_a_label_may_have_is_in_the_document(open_page, seeded):
    described = {name: labels for name, _, labels, _ in TABLE}
    assert 'smtp_ and the name of each relay' in described['email_service_up']
    assert {'queue', 'relay', 'email_type', 'cron'} <= set(
        re.findall(r'\w+', described['email_paused'])
    )


async def test_numbers_are_those_of_the_outbox_the_workers_and_the_duties(open_page, seeded):
    found = await scrape(await open_page())
    worker = ('worker', 'mail-7@host:42')
    states = {
        labels[0][1]: n
        for (name, *labels), n in found.items()
        if name == 'email_outbox_emails' and n
    }
    assert states == {'due': 1, 'scheduled': 1, 'dead': 1, 'held': 1}
    assert 3599 < found['email_outbox_oldest_due_seconds',] < 3700
    assert found['email_attempt_duration_seconds', ('quantile', '0.5')] == pytest.approx(0.51)
    assert found['email_attempt_duration_seconds', ('quantile', '0.99')] == pytest.approx(1.0)
    assert found['email_attempts_total', ('outcome', 'accepted'), worker] == 7
    assert found['email_attempts_total', ('outcome', 'lease-lost'), worker] == 1
    assert found['email_attempts_total', ('outcome', 'deferred'), worker] == 0
    assert ('email_attempts_total', ('outcome', 'unheard-of'), worker) not in found
    assert found['email_duty_last_success_timestamp_seconds', ('duty', 'tidy')] == 1767225600
    assert ('email_duty_last_success_timestamp_seconds', ('duty', 'never')) not in found
    assert [found['email_duty_failed', ('duty', duty)] for duty in ('sweep', 'tidy', 'never')] == [
        0,
        1,
        0,
    ]
    assert [
        found['email_service_up', ('service', name)] for name in ('mongodb', 'redis_queue')
    ] == [0, 1]
    assert ('email_service_up', ('service', 'gone')) not in found
    assert found['email_paused', ('kind', 'email_type'), ('name', 'news')] == 1
    assert found['email_queue_jobs', ('queue', 'arq:queue'), ('state', 'ready')] == 1
    assert found['email_queue_jobs', ('queue', 'elsewhere'), ('state', 'deferred')] == 1
    assert [
        found['email_queue_served', ('queue', name)] for name in ('arq:queue', 'elsewhere')
    ] == [1, 0]
    assert found['email_worker_up', ('queue', 'arq:queue'), ('version', '1.2'), worker] == 1
    assert found['email_worker_concurrency', worker] == 40
    assert found['email_worker_loop_lag_seconds', worker] == 0.25
    assert found['email_worker_resident_memory_bytes', worker] == 64 * 2**20
    assert (found['email_worker_paused', worker], found['email_worker_sending', worker]) == (1, 2)


async def test_overview_shows_reasons_and_neither_addresses_nor_subjects(open_page, seeded, pool):
    await insert(
        pool, recipient='bob@example.net', subject='Secret offer', status='failed', attempts=1
    )
    page = (await (await open_page()).get('/')).text
    for shown in (
        'mail-7@host:42',
        'rejected, 550 5.1.1, at rcpt',
        'e-mail type',
        'news',
        'elsewhere',
        'sweep',
        'mongodb',
    ):
        assert shown in page
    assert not re.search(r'anna|bob|Secret offer|Hello', page)


async def test_status_is_the_one_of_the_command(open_page, seeded, env):
    told = (await (await open_page()).get('/api/status')).json()
    answered = await run(env, 'status', '-t', '0.1')
    command = as_document(answered)
    assert told.keys() == command.keys() | {'troubles'}
    assert [problem['what'] for problem in told['troubles']] == [
        'nobody serves the queue elsewhere, which has 1 job',
        '1 e-mail is due, the first for 60 min',
        'tidy failed',
        'mongodb is down',
        'every worker is paused: ',
        '1 e-mail may have been delivered or not',
        '1 e-mail is dead: failed, and not tried again',
        '101 of 101 attempts failed within the hour: 101 rejected',
        'e-mails of type news are paused',
    ]
    assert [problem['what'] for problem in told['troubles']] == [
        problem.what for problem in answered.problems
    ]
    assert {problem['level'] for problem in told['troubles']} == {'act', 'look'}
    for part in ('queues', 'outbox', 'duties', 'services', 'switches'):
        assert without_ages(told[part]) == without_ages(command[part])


def without_ages(part):
    if isinstance(part, list):
        return [without_ages(row) for row in part]
    return {name: value for name, value in part.items() if not name.endswith('_s')}


async def test_ready_names_who_is_away_and_both_come_back(open_page, env, seeded):
    async with Gate(env['DATABASE_URL']) as postgres, Gate(env['ARQ_REDIS_URL']) as redis:
        postgres.turn(Way.AWAY)
        redis.turn(Way.AWAY)
        client = await open_page(
            postgres_dsn=postgres.url, redis_url=redis.url
        )  # opens while both are away
        assert (await client.get('/health/live')).status_code == 200
        answer = await client.get('/health/ready')
        assert answer.status_code == 503
        assert [line.partition(':')[0] for line in answer.text.splitlines()] == [
            'postgresql',
            'redis',
        ]
        password = postgres.url.partition('@')[0].rpartition(':')[2]
        assert password not in answer.text
        assert set(await scrape(client)) == {
            ('email_source_up', ('source', s)) for s in ('postgresql', 'redis')
        }
        assert (
            (await client.get('/')).status_code
            == (await client.get('/api/status')).status_code
            == 200
        )
        for gate, source, metric in (
            (postgres, Source.POSTGRESQL, 'email_outbox_emails'),
            (redis, Source.REDIS, 'email_worker_sending')
        ):  # fmt: skip
            gate.turn(Way.OPEN)
            found = await scrape(client)
            assert found['email_source_up', ('source', source)] == 1
            assert [name for name, *_ in found if name == metric]
        assert (await client.get('/health/ready')).text == 'ready\n'
        for gate, source in ((postgres, 'postgresql'), (redis, 'redis')):
            gate.turn(Way.AWAY)
            assert (await scrape(client))['email_source_up', ('source', source)] == 0
            gate.turn(Way.OPEN)
            assert (await scrape(client))['email_source_up', ('source', source)] == 1


@pytest.mark.parametrize('source', Source)
async def test_frozen_server_holds_no_scrape_longer_than_the_deadline(
    open_page, env, seeded, source
):
    url = env['DATABASE_URL' if source is Source.POSTGRESQL else 'ARQ_REDIS_URL']
    async with Gate(url) as gate:
        place = {'postgres_dsn' if source is Source.POSTGRESQL else 'redis_url': gate.url}
        client = await open_page(deadline_s=0.4, **place)

        async def is_up():
            return (await scrape(client))['email_source_up', ('source', source.value)]

        await wait_until(is_up)
        gate.turn(Way.SILENT)
        for _ in range(2):  # on the old connection, and on a new one
            async with asyncio.timeout(DEADLINE_S / 4):
                assert not await is_up()
        answer = await client.get('/health/ready')
        assert (answer.status_code, 'no answer within 0.4 s' in answer.text) == (503, True)
        gate.turn(Way.OPEN)
        await wait_until(is_up)


async def test_locked_outbox_leaves_its_numbers_out_and_all_others_in(open_page, env, pool, seeded):
    client = await open_page(deadline_s=0.6)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('LOCK TABLE outbound_emails')

        async def rest():
            found = await scrape(client)
            assert found['email_source_up', ('source', 'postgresql')] == 0
            assert ('email_outbox_oldest_due_seconds',) not in found
            names = {name for name, *_ in found}
            return names >= {
                'email_duty_failed',
                'email_attempt_duration_seconds',
                'email_worker_up',
            }

        await wait_until(rest)
        await wait_until(lambda: is_ready(client))
        page = (await client.get('/')).text
        assert 'no answer within 0.6 s' in page
    await wait_until(lambda: scrape_has(client, 'email_outbox_oldest_due_seconds'))

    async def waiting():  # the server has given up what we no longer wait for
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'email-web' AND "
            "wait_event_type = 'Lock'"
        )
        return await pool.fetchval(sql) == 0

    await wait_until(waiting)


async def test_numbers_that_were_known_stand_with_their_age_while_postgresql_is_slow(
    open_page, pool, seeded, monkeypatch
):
    client = await open_page(deadline_s=0.6)

    async def whole():
        found = await scrape(client)
        return found if found['email_source_up', ('source', 'postgresql')] else None

    before = await wait_until(whole)
    assert before['email_outbox_age_seconds',] == 0
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('LOCK TABLE outbound_emails')
        found = await scrape(client)
        assert found['email_source_up', ('source', 'postgresql')] == 0
        assert found['email_outbox_emails', ('state', 'due')] == 1
        assert found['email_outbox_age_seconds',] >= 0.5
        assert 'postgresql does not answer: as it was' in (await client.get('/')).text
        monkeypatch.setattr('web.watch.KEPT_S', 0.1)
        found = await scrape(client)
        assert ('email_outbox_age_seconds',) not in found


async def is_ready(client):
    return (await client.get('/health/ready')).status_code == 200


async def scrape_has(client, name):
    return (name,) in await scrape(client)


async def test_database_without_our_schema_is_named_with_its_remedy(open_page, empty_database):
    client = await open_page(postgres_dsn=empty_database.dsn)
    (problem,) = [t for t in (await client.get('/api/status')).json()['troubles'] if t['service']]
    assert (problem['service'], problem['remedy']) == ('PostgreSQL', 'run `python -m db.migrate`')


async def test_who_asks_together_or_soon_again_gets_one_answer(env):
    asked = 0

    async def question(_):
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return asked

    places = ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL'])
    watch = Watch(places, {Source.REDIS: {'n': question}}, deadline_s=DEADLINE_S, shared_s=3600)
    together = await asyncio.gather(*(watch.look() for _ in range(50)))
    assert [reading.found['n'] for reading in [*together, await watch.look()]] == [1] * 51
    impatient = Watch(places, {Source.REDIS: {'n': question}}, deadline_s=DEADLINE_S, shared_s=0)
    assert [(await impatient.look()).found['n'] for _ in range(2)] == [2, 3]
    gone = asyncio.create_task(impatient.look())
    await asyncio.sleep(0)
    gone.cancel()  # a scraper that hangs up takes the answer from nobody
    assert (await impatient.look()).found['n'] == 4
    await watch.close()
    await impatient.close()


async def test_fifty_scrapers_hold_two_connections_at_most(open_page, env, pool, seeded):
    client = await open_page()
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'email-web' AND "
        'datname = current_database()'
    )
    paths = ('/metrics', '/', '/api/status', '/health/ready')
    for _ in range(3):
        asking = [asyncio.create_task(client.get(path)) for path in paths for _ in range(12)]
        counts = []
        while not all(task.done() for task in asking):
            counts.append(await pool.fetchval(sql))
        assert {task.result().status_code for task in asking} == {200}
        assert max(counts, default=0) <= 2


async def test_fault_in_a_question_is_a_source_that_cannot_be_read(env, capfd):
    async def broken(_):
        raise KeyError('surprise')

    watch = Watch(
        ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']),
        {Source.REDIS: {'n': broken}},
        shared_s=0,
    )
    reading = await watch.look()
    assert reading.problems[Source.REDIS].what == 'cannot be read: KeyError'
    assert 'surprise' not in reading.problems[Source.REDIS].line
    await watch.close()
