"""An organisation queues no more in a day than it may, however many insert at once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from actions.quotas import drop_quota, put_quota
from actions.safety import RequestError
from actions.tokens import ApiScope
from db.quotas import Quota, read_quotas
from mail_outbox import QuotaExceededError, queue_email, queue_emails
from reporting.problems import ProblemError
from reporting.servers import ServerAddresses, Servers
from tests.services.api_desk import open_desk
from tests.services.connections import WAYS, awaited, opened
from tests.services.ops_desk import ops, rendered, run

HELLO = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}
OF_7 = HELLO | {'organization_id': 7}
COUNT_SQL = 'SELECT count(*) FROM outbound_emails'
TRIGGERS_SQL = """
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'outbound_emails'::regclass
  AND tgname = 'mail_count_quotas'
"""
LIMIT_SQL = 'INSERT INTO mail_quotas (organization_id, emails_per_day) VALUES ($1, $2)'


@pytest.fixture(params=WAYS)
async def way(request: Any, database: Any) -> Any:
    async with opened(request.param, database.dsn) as found:
        yield found


@pytest.fixture
async def servers(env: Any) -> Any:
    asked = Servers(
        ServerAddresses(
            env['DATABASE_URL'], env['ARQ_REDIS_URL'], env['MONGODB_URL'], env['MONGODB_DATABASE']
        )
    )
    yield asked
    await asked.close()


async def test_every_kind_of_connection_says_who_has_reached_what_and_until_when(
    way: Any, pool: Any
) -> None:
    await pool.execute(LIMIT_SQL, '7', 2)
    await awaited(queue_email(way.conn, **OF_7))
    await awaited(queue_emails(way.conn, [OF_7, HELLO | {'organization_id': 8}, HELLO]))
    with pytest.raises(QuotaExceededError) as refused:
        await awaited(queue_email(way.conn, **OF_7))
    error = refused.value
    assert (error.organization_id, error.emails_per_day, error.queued) == ('7', 2, 2)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert error.resets_at == midnight + timedelta(days=1)
    assert 1 <= error.seconds_left() <= 86_400
    await awaited(way.rollback())
    assert await pool.fetchval(COUNT_SQL) == 0
    assert (await read_quotas(pool, limit=9))[1][0]['queued'] == 0, 'what is rolled back is none'


async def test_refused_part_of_queue_emails_leaves_the_transaction_as_it_was(
    way: Any, pool: Any
) -> None:
    await pool.execute(LIMIT_SQL, '7', 2)
    await awaited(queue_email(way.conn, **OF_7))
    with pytest.raises(QuotaExceededError, match='may queue 2 e-mails a day'):
        await awaited(queue_emails(way.conn, [OF_7, OF_7]))
    await awaited(queue_email(way.conn, **OF_7))
    await awaited(way.commit())
    assert await pool.fetchval(COUNT_SQL) == 2


async def test_never_more_than_the_quota_by_a_hundred_clients_at_once(database: Any) -> None:
    pool = await asyncpg.create_pool(database.dsn, min_size=40, max_size=40)
    await pool.execute(LIMIT_SQL, '*', 100)

    async def client(number: int) -> int:
        queued = 0
        for turn in range(4):
            email = HELLO | {'organization_id': number % 2}
            try:
                async with pool.acquire() as conn, conn.transaction():
                    if turn % 2:
                        await queue_emails(conn, [email, email])
                    else:
                        await queue_email(conn, **email)
                    # One in ten changes its mind.
                    queued += (1 + turn % 2) // (1 if number % 10 else 0)
            except (QuotaExceededError, ZeroDivisionError):
                continue
        return queued

    assert sum(await asyncio.gather(*map(client, range(100)))) == 200
    rows = await pool.fetch('SELECT organization_id, count(*) FROM outbound_emails GROUP BY 1')
    assert sorted(map(tuple, rows)) == [(0, 100), (1, 100)]
    _, quotas = await read_quotas(pool, limit=9)
    assert [(q['organization_id'], q['queued']) for q in quotas] == [
        ('0', 100), ('1', 100), ('*', 0),
    ]  # fmt: skip
    await pool.close()


async def test_plain_insert_is_counted_and_a_known_key_is_not(pool: Any) -> None:
    await pool.execute(LIMIT_SQL, '7', 2)
    async with pool.acquire() as conn:
        first = await queue_email(conn, **OF_7, idempotency_key='a')
        await conn.execute(
            'INSERT INTO outbound_emails (recipient, subject, body_text, status, organization_id)'
            " VALUES ('a@example.com', 'x', 'x', 'pending', 7)"
        )
        assert await queue_email(conn, **OF_7, idempotency_key='a') == first
        with pytest.raises(asyncpg.PostgresError, match='may queue 2 e-mails a day') as refused:
            await conn.execute(
                'INSERT INTO outbound_emails (recipient, subject, status, organization_id)'
                " VALUES ('a@example.com', 'x', 'pending', 7)"
            )
        assert refused.value.sqlstate == 'MQ429'


async def test_own_quota_comes_before_that_of_all_others(pool: Any) -> None:
    await pool.execute(LIMIT_SQL, '*', 0)
    await pool.execute(LIMIT_SQL, '7', None)
    async with pool.acquire() as conn:
        await queue_emails(conn, [OF_7] * 5 + [HELLO] * 5)  # none has no organisation's quota
        with pytest.raises(QuotaExceededError, match='organization 8 may queue 0'):
            await queue_email(conn, **HELLO | {'organization_id': 8})


async def test_day_begins_at_midnight_of_the_quotas_zone(pool: Any) -> None:
    for zone in ('Pacific/Kiritimati', 'Pacific/Pago_Pago'):  # never the same day
        await pool.execute('DELETE FROM mail_quotas')
        await pool.execute(
            'INSERT INTO mail_quotas (organization_id, emails_per_day, time_zone)'
            " VALUES ('7', 1, $1)",
            zone,
        )
        async with pool.acquire() as conn:
            await queue_email(conn, **OF_7)
            with pytest.raises(QuotaExceededError) as refused:
                await queue_email(conn, **OF_7)
        [quota] = (await read_quotas(pool, limit=9))[1]
        assert (quota['queued'], quota['resets_at']) == (1, refused.value.resets_at)
        assert timedelta(0) < refused.value.resets_at - datetime.now(UTC) <= timedelta(days=1)
    await pool.execute('UPDATE mail_quota_use SET day = day - 40')
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, subject, status, organization_id)'
        " VALUES ('a@example.com', 'x', 'pending', 7)"
    )
    assert await pool.fetchval('SELECT count(*) FROM mail_quota_use') == 1, 'old days are gone'


async def test_nothing_is_counted_or_asked_while_nobody_has_a_quota(pool: Any) -> None:
    assert await pool.fetchval(TRIGGERS_SQL) == 0
    await pool.execute(LIMIT_SQL, '7', 5)
    await pool.execute(LIMIT_SQL, '8', None)
    assert await pool.fetchval(TRIGGERS_SQL) == 1
    await pool.execute("DELETE FROM mail_quotas WHERE organization_id = '7'")
    assert await pool.fetchval(TRIGGERS_SQL) == 0


async def test_quota_waits_not_for_long_for_who_is_writing(pool: Any, servers: Any) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await queue_email(conn, **OF_7)
        with pytest.raises(ProblemError):
            await put_quota(servers, Quota('7', 5))
    assert await pool.fetchval('SELECT count(*) FROM mail_quotas') == 0


@pytest.mark.parametrize(
    'quota',
    [Quota('', 1), Quota('a\0', 1), Quota('x' * 256, 1), Quota('7', -1), Quota('7', 2**63),
     Quota('7', 1, 'Mars/Olympus'), Quota('7', 1, '../etc/passwd'), Quota('7', 1, '')],
)  # fmt: skip
async def test_what_is_no_quota_is_refused(servers: Any, quota: Quota) -> None:
    with pytest.raises(RequestError):
        await put_quota(servers, quota)
    assert await drop_quota(servers, '7') is None


async def test_clients_over_http_are_told_429_and_when_to_come_back(env: Any, pool: Any) -> None:
    await pool.execute(LIMIT_SQL, '7', 30)
    async with open_desk(env) as desk:
        client = await desk.client(await desk.token('a', [ApiScope.SEND], organization_id='7'))
        other = await desk.client(await desk.token('b', [ApiScope.SEND, ApiScope.READ]))
        email = {'to': 'a@example.com', 'subject': 'x', 'text': 'x'}
        asked = [client.post('/emails', json=email) for _ in range(100)]
        asked += [other.post('/emails', json=email) for _ in range(20)]
        answers = await asyncio.gather(*asked)
        assert sorted(a.status_code for a in answers[:100]) == [200] * 30 + [429] * 70
        assert {a.status_code for a in answers[100:]} == {200}
        [refused, *_] = [a for a in answers if a.status_code == 429]
        assert refused.json()['name'] == 'daily_quota_exceeded'
        assert 'may queue 30 e-mails a day' in refused.json()['message']
        assert 1 <= int(refused.headers['Retry-After']) <= 86_400
        batch = await client.post('/emails/batch', json=[email])
        assert batch.status_code == 429
        shown = (await other.get('/api/quotas')).json()
        assert shown['quotas'][0]['queued'] == 30
        assert (await other.get('/api/quotas?limit=0')).status_code == 422
        reader = await desk.client(await desk.token('c', [ApiScope.READ], organization_id='8'))
        assert (await reader.get('/api/quotas')).json()['quotas'] == []


async def test_operator_sets_sees_and_removes_quotas(env: Any, pool: Any) -> None:
    done = await run(env, 'quota', 'set', '7', '10', '--yes')
    assert done.document['set'] == {
        'organization_id': '7', 'emails_per_day': 10, 'time_zone': 'UTC',
    }  # fmt: skip
    await run(env, 'quota', 'set', '*', 'unlimited', '--zone', 'Europe/Berlin', '--yes')
    async with pool.acquire() as conn:
        await queue_email(conn, **OF_7)
    assert '7 10 1 20' in ' '.join(rendered('quota', await run(env, 'quota', 'ls')).split())
    again = await run(env, 'quota', 'set', '7', '20', '--dry-run')
    assert again.document['before']['emails_per_day'] == 10
    assert (await run(env, 'quota', 'rm', '9', '--yes')).problems
    typed = await ops(env, 'quota', 'rm', '7', '--yes')
    assert 'Removed: 7, 10 e-mails a day (UTC).' in typed.out
    assert await pool.fetchval('SELECT organization_id FROM mail_quotas') == '*'
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action = 'ops quota'") == 4


async def test_producer_of_least_rights_is_counted_and_reads_nothing(pool: Any) -> None:
    await pool.execute(LIMIT_SQL, '7', 1)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('CREATE ROLE quota_producer')
        await conn.execute(
            'GRANT INSERT, SELECT, UPDATE ON mail_outbox, outbound_emails TO quota_producer;'
            ' GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO quota_producer;'
            ' SET LOCAL ROLE quota_producer'
        )
        await queue_email(conn, **OF_7)
        with pytest.raises(QuotaExceededError):
            async with conn.transaction():
                await queue_email(conn, **OF_7)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.execute('SELECT FROM mail_quota_use')
        await conn.execute('RESET ROLE; DROP OWNED BY quota_producer; DROP ROLE quota_producer')
