"""GET /api/emails on a real PostgreSQL: what fits, page by page, and everything about one."""

import pytest

from actions.tokens import ApiScope
from tests.services.adopted import adopt, conn, create_legacy, state_of
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert

__all__ = ['conn']  # a fixture

EMAILS = {
    'anna': {'recipient': 'Anna <anna@example.com>', 'status': 'sent', 'sent_at': 'sql:now()',
        'email_type': 'receipt', 'message_id': '<1@example.com>', 'organization_id': 7},
    'both': {'recipient': 'joanna@example.com, bob@example.net', 'status': 'failed', 'attempts': 1,
        'last_error': '550 mailbox full', 'relay': 'backup', 'organization_id': 8,
        'bcc': 'Carl <carl@example.org>', 'tags': {'campaign': 'may', 'n': '1'},
        'last_attempt_at': "sql:now() - interval '3 days'"},
    'old': {'created_at': "sql:now() - interval '9 days'", 'recipient': 'anna+news@example.com',
        'status': 'failed', 'attempts': 1, 'next_retry_at': "sql:now() + interval '1 hour'"},
}  # fmt: skip


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def reader(desk):
    return await desk.client(await desk.token('reader', [ApiScope.READ]))


@pytest.fixture
async def names(pool):
    """Insert the examples: id -> name."""
    return {await insert(pool, **columns): name for name, columns in EMAILS.items()}


@pytest.mark.parametrize(
    ('query', 'fit'),
    [
        ('', ['old', 'both', 'anna']),
        ('recipient=anna@example.com', ['anna']),
        ('recipient=ANNA@EXAMPLE.COM', ['anna']),
        ('recipient=anna%2Bnews@example.com', ['old']),
        ('recipient=bob@example.net', ['both']),
        ('recipient=@example.net', ['both']),
        ('recipient=carl@example.org', ['both']),
        ('tag=campaign', ['both']),
        ('tag=campaign=may', ['both']),
        ('tag=campaign=june', []),
        ('tag=n=1', ['both']),
        ('tag=other', []),
        ('recipient=anna@example.co', []),
        ('status=sent', ['anna']),
        ('status=sent&status=failed', ['old', 'both', 'anna']),
        ('status=dead', ['both']),
        ('email_type=receipt', ['anna']),
        ('message_id=1@example.com', ['anna']),
        ('message_id=%3C1@example.com%3E', ['anna']),
        ('relay=backup', ['both']),
        ('error_like=Mailbox', ['both']),
        ('created_until=2026-01-01T00:00:00Z', []),
        ('created_since=2026-01-01T00:00:00%2B01:00&status=sent', ['anna']),
        ('tried_until=2026-01-01T00:00:00Z', []),
        ("recipient=anna@example.com'; DROP TABLE outbound_emails; --", []),
        ('recipient=.*', []),
    ],
)
async def test_list_has_exactly_what_fits_the_newest_first(reader, names, query, fit):
    answer = await reader.get(f'/api/emails?{query}')
    assert answer.status_code == 200, answer.text
    assert [names[email['id']] for email in answer.json()['emails']] == fit
    assert answer.json()['next_cursor'] is None


async def test_list_by_time_counts_from_creation(reader, names, pool):
    week_ago = await pool.fetchval("SELECT now() - interval '7 days'")
    answer = await reader.get('/api/emails', params={'created_since': week_ago.isoformat()})
    assert [names[email['id']] for email in answer.json()['emails']] == ['both', 'anna']
    answer = await reader.get('/api/emails', params={'created_until': week_ago.isoformat()})
    assert [names[email['id']] for email in answer.json()['emails']] == ['old']


async def test_pages_follow_each_other_though_mail_is_queued_meanwhile(reader, pool):
    ids = [await insert(pool) for _ in range(7)]
    seen, cursor = [], None
    while True:
        query = {'limit': 3} | ({'cursor': cursor} if cursor else {})
        page = await reader.get('/api/emails', params=query)
        seen += [email['id'] for email in page.json()['emails']]
        cursor = page.json()['next_cursor']
        await insert(pool)
        if cursor is None:
            break
    assert seen == ids[::-1]


async def test_list_shows_no_content(reader, pool):
    await insert(pool, body_text='the secret link', template_data='{"secret": 1}')
    answer = await reader.get('/api/emails')
    assert 'secret' not in answer.text


@pytest.mark.parametrize(
    ('query', 'field'),
    [
        ('recipent=anna@example.com', 'query.recipent'),
        ('status=gone', 'query.status.0'),
        ('limit=0', 'query.limit'),
        ('limit=1e2', 'query.limit'),
        ('limit=1_0', 'query.limit'),
        ('cursor=abc', 'query.cursor'),
        ('cursor=99999999999999999999', 'query.cursor'),
        ('created_since=yesterday', 'query.created_since'),
        ('created_since=2026-01-01T00:00:00', 'query.created_since'),
        ('created_since=2026-13-01T00:00:00Z', 'query.created_since'),
        ('created_since=1690000000', 'query.created_since'),
        ('recipient=', 'query.recipient'),
        ('recipient=a%00b', 'query.recipient'),
        ('recipient=' + 'a' * 400, 'query.recipient'),
        ('&'.join(['status=sent'] * 21), 'query.status'),
    ],
)
async def test_wrong_condition_is_named_with_its_remedy(reader, query, field):
    answer = await reader.get(f'/api/emails?{query}')
    assert answer.status_code == 422
    assert answer.headers['content-type'] == 'application/problem+json'
    problem = answer.json()
    assert problem['type'] == 'urn:arq-mail-worker:problem:invalid'
    assert [fault['field'] for fault in problem['errors']] == [field]
    assert problem['detail'].startswith(field)
    assert problem['remedy']


async def test_token_of_an_organisation_sees_its_own_only(desk, names):
    client = await desk.client(await desk.token('seven', [ApiScope.READ], organization_id='7'))
    answer = await client.get('/api/emails')
    assert [names[email['id']] for email in answer.json()['emails']] == ['anna']
    by_name = {name: email_id for email_id, name in names.items()}
    assert (await client.get(f'/api/emails/{by_name["anna"]}')).status_code == 200
    foreign = await client.get(f'/api/emails/{by_name["both"]}')
    absent = await client.get('/api/emails/999')
    assert (foreign.status_code, absent.status_code) == (404, 404)
    assert foreign.json()['detail'].replace(str(by_name['both']), '999') == absent.json()['detail']


async def test_one_email_has_its_row_attempts_and_explanation(reader, pool):
    email_id = await insert(
        pool, status='failed', attempts=1, dead_reason='rejected', last_error='550 no such user',
        last_attempt_at='sql:now()',
    )  # fmt: skip
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        "smtp_code) VALUES ($1, now(), 1, 'w', 'rejected', 'rcpt', 550)",
        email_id,
    )
    found = (await reader.get(f'/api/emails/{email_id}')).json()
    assert found['email']['dead_reason'] == 'rejected'
    assert 'body_text' not in found['email']
    assert [(a['outcome'], a['smtp_code']) for a in found['attempts']] == [('rejected', 550)]
    assert found['explanation']['next']
    assert any('550' in because['what'] for because in found['explanation']['because'])


@pytest.mark.parametrize('email_id', ['0', '-1', 'abc', '9' * 30, '1.0', '%00', '1%2F2', ' 1'])
async def test_what_is_no_id_is_refused(reader, email_id):
    answer = await reader.get(f'/api/emails/{email_id}')
    assert answer.status_code in {404, 422}
    assert answer.headers['content-type'] == 'application/problem+json'


async def test_token_without_the_scope_reads_nothing(desk, names):
    client = await desk.client(await desk.token('sender', [ApiScope.SEND, ApiScope.OPERATE]))
    for path in ('/api/emails', f'/api/emails/{next(iter(names))}', '/api/workers', '/api/queues'):
        assert (await client.get(path)).status_code == 403, path


async def test_so_few_that_fit_that_it_takes_too_long_is_said_with_what_to_do(env, pool):
    async with open_desk(env, deadline_s=0.5) as desk:
        client = await desk.client(await desk.token())
        await insert(pool)
        assert (await client.get('/api/emails')).status_code == 200
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute('LOCK TABLE outbound_emails')
            answer = await client.get('/api/emails')
        assert (answer.status_code, answer.json()['type'].rpartition(':')[2]) == (503, 'too-slow')
        assert 'created_since' in answer.json()['remedy']


@pytest.mark.parametrize('status', ['enum', 'varchar(20)'])
async def test_table_that_was_there_before_is_listed_and_changed(conn, empty_database, env, status):
    await create_legacy(conn, status)
    email_id = await conn.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts) '
        "VALUES ('anna@example.com', 's', 't', 'failed', 5) RETURNING id"
    )
    await adopt(conn)
    async with open_desk(env, postgres_dsn=empty_database.dsn) as desk:
        client = await desk.client(await desk.token())
        listed = await client.get('/api/emails?recipient=anna@example.com&status=failed')
        assert listed.status_code == 200, listed.text
        assert [email['id'] for email in listed.json()['emails']] == [email_id]
        assert (await client.get(f'/api/emails/{email_id}')).status_code == 200
        for nobodys in (2**31, 2**63 - 1, 2**63):  # its ids have four bytes
            assert (await client.get(f'/api/emails/{nobodys}')).status_code == 404
            assert (await client.post(f'/api/emails/{nobodys}/retry')).status_code == 404
        retried = await client.post(f'/admin/emails/{email_id}/retry')
        assert (retried.status_code, retried.json()['status']) == (202, 'pending')
        cancelled = await client.post('/api/emails/cancel', json={'status': 'pending'})
        assert cancelled.json()['changed'] == [email_id]
        other = await desk.client(await desk.token('other', organization_id='7'))
        assert (await other.get('/api/emails')).json()['emails'] == []
    assert (await state_of(conn, email_id))[0] == 'cancelled'
