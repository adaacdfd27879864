"""What one client sends over HTTP harms no other, and what it sends badly is told to it alone."""

import asyncio
import json

import pytest

from actions.senders import allow
from actions.tokens import ApiScope
from mail_outbox.wake import CHANNEL
from tests.conftest import wait_until
from tests.services.api_desk import open_desk
from tests.services.gate import Gate, Way
from web.api.resend import body as bodies
from web.api.servers import OTHER_CONNECTIONS

HELLO = {'to': 'anna@example.com', 'subject': 'Hello', 'text': 'Hello, Anna.'}
FILE = {'attachments': [{'filename': 'a.txt', 'content': 'YQ=='}]}
LONG = {'html': 'x' * bodies.SMALL_BYTES}
HALF = '\ud800'
BOTH = (ApiScope.SEND, ApiScope.READ)


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def client(desk):
    return await desk.client(await desk.token('shop', BOTH), raise_app_exceptions=False)


# One transaction, one statement for many requests.


@pytest.mark.parametrize(
    ('change', 'names'),
    [
        ({'user_id': 'seven'}, 'bigint'),
        (FILE | {'user_id': 'seven'}, 'bigint'),
        (FILE | {'user_id': 'a\0'}, '`user_id`'),
        ({'organization_id': 'a\0', 'from': 'shop@example.com'}, '`organization_id`'),
        ({'organization_id': 'x' * 300, 'from': 'shop@example.com'}, '`organization_id`'),
        ({'template': {'id': 'a\0'}}, 'no template'),
        ({'template_id': '9' * 30}, 'no template'),
    ],
)
async def test_email_that_postgresql_refuses_is_refused_alone(desk, client, pool, change, names):
    await allow(desk.api.servers, ['shop@example.com'])
    sound = [HELLO, HELLO | FILE, HELLO | {'from': 'shop@example.com'}]
    documents = [HELLO | change if n % 4 == 3 else sound[n % 4] for n in range(24)]
    answers = await asyncio.gather(*(client.post('/emails', json=each) for each in documents))
    for n, answer in enumerate(answers):
        assert answer.status_code == (422 if n % 4 == 3 else 200), answer.text
        assert n % 4 != 3 or names in answer.json()['message']
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 18
    assert await pool.fetchval('SELECT count(*) FROM email_attachments') == 6


@pytest.mark.parametrize('more', [{}, FILE, LONG, FILE | LONG])
async def test_id_may_be_text_or_a_number_whatever_else_an_email_has(client, pool, more):
    for user_id in (8, '8'):
        answer = await client.post('/emails', json=HELLO | more | {'user_id': user_id})
        assert answer.status_code == 200, answer.text
    assert [row['user_id'] for row in await pool.fetch('SELECT user_id FROM outbound_emails')] == [
        8, 8,
    ]  # fmt: skip


# What costs time.


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({f'f{n}': 1 for n in range(50_000)}, '`body`: has 50003 fields'),
        ({'headers': {f'f{n}': 1 for n in range(50_000)}}, '`headers`: has 50000 fields'),
        ({'headers': [['X']] * 1001}, '`headers`: has 1001 fields'),
        ({'tags': [{f'f{n}': 1 for n in range(101)}]}, '`tags.0`: has 101 fields'),
        ({'attachments': [{f'f{n}': 1 for n in range(101)}] * 100}, '`attachments.0`: has 101'),
    ],
)
async def test_a_million_wrong_fields_are_one_fault(client, change, words):
    answer = await client.post('/emails', json=HELLO | change)
    assert answer.status_code == 422
    assert words in answer.json()['message']


@pytest.mark.parametrize('size', ['', 'x' * bodies.SMALL_BYTES])
@pytest.mark.parametrize(
    ('change', 'status'),
    [
        ({'user_id': 10**30}, 422),
        ({'user_id': HALF}, 400),
        ({'template': {'id': HALF}}, 400),
        ({'metadata': {'a': HALF}}, 400),
        ({HALF: 1}, 400),
        ({'metadata': {HALF: 1}}, 400),
    ],
)
async def test_large_body_is_read_as_a_small_one_is(client, pool, change, status, size):
    content = json.dumps(HELLO | {'html': size} | change)
    answer = await client.post('/emails', content=content)
    assert answer.status_code == status, answer.text
    batch = {'x-batch-validation': 'permissive'}
    answer = await client.post('/emails/batch', content=f'[{content}]', headers=batch)
    assert answer.status_code in {200, 400}, answer.text
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'[' + b'[],' * 200_000 + b'1]', 'more than 100000 values'),
        (b'{"to": "' + b'x' * 11_000_000 + b'"}', 'a text of more than'),
        (b'{"' + b'x' * 11_000_000 + b'": 1}', 'a text of more than'),
    ],
)
async def test_what_no_email_needs_is_refused_by_the_process_that_reads(client, content, words):
    answer = await client.post('/emails', content=content)
    assert answer.status_code == 413
    assert words in answer.json()['message']


async def test_who_sends_slowly_takes_his_own_share_of_the_memory(desk, pool, monkeypatch):
    monkeypatch.setattr(bodies, 'HELD_BYTES', 4000)
    monkeypatch.setattr(bodies, 'HELD_BYTES_OF_ONE', 2000)
    slow, other = [await desk.client(await desk.token(name, organization_id=name)) for name in '12']
    goes_on = asyncio.Event()

    async def body():
        yield json.dumps(HELLO | {'text': 'x' * 1500}).encode()
        await goes_on.wait()

    sending = asyncio.create_task(slow.post('/emails', content=body()))
    await wait_until(lambda: desk.api.sending.bodies.held_bytes['organization:1'])
    text = {'text': 'x' * 1000}
    answer = await slow.post('/emails', json=HELLO | text)
    assert (answer.status_code, answer.headers['retry-after']) == (429, '1')
    assert (await other.post('/emails', json=HELLO | text)).status_code == 200
    goes_on.set()
    assert (await sending).status_code == 200
    assert not desk.api.sending.bodies.held_bytes


async def test_body_that_does_not_fit_is_refused_before_it_comes(desk, client, monkeypatch):
    monkeypatch.setattr(bodies, 'HELD_BYTES_OF_ONE', 2000)
    asked = []

    async def body():
        asked.append(1)
        yield b'{}'

    announced = {'Content-Length': '2001'}
    answer = await client.post('/emails', content=body(), headers=announced)
    assert (answer.status_code, answer.headers['retry-after'], asked) == (429, '1', [])
    assert not desk.api.sending.bodies.held_bytes


async def test_lists_that_take_long_hold_up_no_email(desk, client):
    asking = [
        asyncio.create_task(
            desk.api.servers.ask_postgres(lambda p: p.execute('SELECT pg_sleep(3)'))
        )
        for _ in range(2 * OTHER_CONNECTIONS)
    ]
    await asyncio.sleep(0)
    assert (await client.post('/emails', json=HELLO)).status_code == 200
    assert not any(task.done() for task in asking)
    for task in asking:
        task.cancel()


async def test_frozen_postgresql_is_told_within_the_deadline_though_tokens_are_stale(
    env, desk, monkeypatch
):
    monkeypatch.setattr('actions.known_tokens.FRESH_S', 0)
    monkeypatch.setattr('actions.known_tokens.PATIENCE_S', 0.2)
    token = await desk.token('shop', [ApiScope.SEND])
    async with (
        Gate(env['DATABASE_URL']) as gate,
        open_desk(env, postgres_dsn=gate.url, deadline_s=2) as guarded,
    ):
        client = await guarded.client(token)
        assert (await client.post('/emails', json=HELLO)).status_code == 200
        gate.turn(Way.SILENT)
        began_at = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(client.post('/emails', json=HELLO) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert asyncio.get_running_loop().time() - began_at < 4


# Looking back.


async def test_who_may_only_send_sees_what_became_of_an_email_and_not_what_it_says(desk, client):
    sender = await desk.client(await desk.token('wordpress', [ApiScope.SEND]))
    email_id = (await sender.post('/emails', json=HELLO | {'html': '<p>1234</p>'})).json()['id']
    shown = (await sender.get(f'/emails/{email_id}')).json()
    (listed,) = (await sender.get('/emails')).json()['data']
    assert shown == listed | {'html': None, 'text': None}
    assert (shown['last_event'], shown['subject']) == ('queued', None)
    shown = (await client.get(f'/emails/{email_id}')).json()
    assert (shown['subject'], shown['html'], shown['text']) == (
        HELLO['subject'], '<p>1234</p>', HELLO['text'],
    )  # fmt: skip


@pytest.mark.parametrize('organization', [None, '7'])
async def test_who_may_only_send_knows_and_changes_what_was_queued_by_his_token_alone(
    desk, client, pool, organization
):
    sender = await desk.client(
        await desk.token('wordpress', [ApiScope.SEND], organization_id=organization)
    )
    of_application = await pool.fetchval(
        """INSERT INTO outbound_emails (recipient, subject, body_text, status, organization_id)
        VALUES ('boss@example.com', 'x', 'x', 'pending', 7) RETURNING id"""
    )
    of_other = (await client.post('/emails', json=HELLO | {'organization_id': 7})).json()['id']
    own = (await sender.post('/emails', json=HELLO)).json()['id']
    for email_id in (of_application, of_other):
        for answer in (
            await sender.get(f'/emails/{email_id}'),
            await sender.post(f'/emails/{email_id}/cancel'),
            await sender.patch(f'/emails/{email_id}', json={'scheduled_at': 'in 1 hour'}),
        ):
            assert answer.status_code == 404
            assert 'boss' not in answer.text
    for page in ('', f'?before={of_application}', '?after=999'):
        listed = (await sender.get(f'/emails{page}')).json()['data']
        assert [email['id'] for email in listed] == [own]
    # One that may read sees all, and changes what it queued itself.
    assert (await client.get(f'/emails/{own}')).status_code == 200
    assert (await client.post(f'/emails/{own}/cancel')).status_code == 404
    operator = await desk.client(await desk.token('ops', [ApiScope.SEND, ApiScope.OPERATE]))
    assert (await operator.post(f'/emails/{of_application}/cancel')).status_code == 200
    assert (await sender.post(f'/emails/{own}/cancel')).status_code == 200
    # Made again under its name, it knows what it queued before.
    await pool.execute("UPDATE mail_api_tokens SET revoked_at = now() WHERE name = 'wordpress'")
    again = await desk.client(
        await desk.token('wordpress', [ApiScope.SEND], organization_id=organization)
    )
    assert (await again.get(f'/emails/{own}')).json()['last_event'] == 'canceled'


async def test_row_of_any_size_and_kind_is_shown_in_part(client, pool):
    email_id = await pool.fetchval(
        """INSERT INTO outbound_emails (recipient, subject, cc, body_html, status, tags)
        VALUES ($1, $1, $1, $2, 'pending', $3) RETURNING id""",
        'x' * 50_000, 'y' * 3_000_000, {'a': 10**30, 'b': [1], 'c': 'd'},
    )  # fmt: skip
    shown = (await client.get(f'/emails/{email_id}')).json()
    assert (len(shown['html']), len(shown['cc'][0])) == (1_000_000, 32_000)
    assert shown['tags'] == [
        {'name': 'a', 'value': '1' + '0' * 30}, {'name': 'b', 'value': '[1]'},
        {'name': 'c', 'value': 'd'},
    ]  # fmt: skip
    listed = await client.get('/emails')
    assert listed.status_code == 200
    assert len(listed.content) < 20_000


# Changes.


async def test_rescheduling_into_the_past_sends_now_and_ends_no_life(client, pool):
    heard = []
    async with pool.acquire() as listener:
        await listener.add_listener(CHANNEL, lambda *_: heard.append(1))
        answer = await client.post('/emails', json=HELLO | {'scheduled_at': 'in 3 hours'})
        email_id = int(answer.json()['id'])
        life = 'SELECT expires_at - next_retry_at FROM outbound_emails'
        before = await pool.fetchval(life)
        assert not heard
        for moment in ('2001-01-01T00:00:00Z', 'now'):
            answer = await client.patch(f'/emails/{email_id}', json={'scheduled_at': moment})
            assert answer.status_code == 200, answer.text
            assert await pool.fetchval(life) == before
        assert await pool.fetchval('SELECT next_retry_at <= now() FROM outbound_emails')
        await wait_until(lambda: len(heard) == 2)
        await listener.reset()


@pytest.mark.parametrize('column', ['next_retry_at', 'expires_at'])
async def test_row_without_an_end_is_rescheduled(client, pool, column):
    email_id = (await client.post('/emails', json=HELLO)).json()['id']
    await pool.execute(f"UPDATE outbound_emails SET {column} = 'infinity'")
    answer = await client.patch(f'/emails/{email_id}', json={'scheduled_at': 'in 1 hour'})
    assert answer.status_code == 200, answer.text
    assert await pool.fetchval("SELECT next_retry_at < now() + interval '2 h' FROM outbound_emails")


async def test_change_of_what_is_not_his_is_not_in_the_audit_as_cut_off(desk, client, pool):
    email_id = (await client.post('/emails', json=HELLO | {'organization_id': 1})).json()['id']
    stranger = await desk.client(await desk.token('other', organization_id='2'))
    moment = {'scheduled_at': 'in 1 hour'}
    for answer in (
        await stranger.post(f'/emails/{email_id}/cancel'),
        await stranger.patch(f'/emails/{email_id}', json=moment),
        await client.post('/emails/999/cancel'),
    ):
        assert answer.status_code == 404
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action LIKE 'email.%'") == 0
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'pending'
