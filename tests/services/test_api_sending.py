"""E-mails queued over HTTP by the paths of Resend, on real servers."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest

from actions.tokens import ApiScope
from db.api_requests import KEY_HOURS, remove_old_requests
from mail_outbox.wake import CHANNEL
from tests.conftest import wait_until
from tests.services.api_desk import open_desk
from tests.services.gate import Gate, Way
from web.api.resend import body as bodies
from web.api.resend.body import MAX_BYTES
from web.api.resend.sending import MOST_EMAILS


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def client(desk):
    return await desk.client(await desk.token('shop', [ApiScope.SEND, ApiScope.READ]))


@pytest.fixture
def count(pool):
    async def count() -> int:
        return await pool.fetchval('SELECT count(*) FROM outbound_emails')

    return count


HELLO = {'to': 'anna@example.com', 'subject': 'Hello', 'text': 'Hello, Anna.'}


def error_of(answer):
    """Status and name; the body says the same status."""
    told = answer.json()
    assert set(told) == {'statusCode', 'name', 'message'}
    assert told['statusCode'] == answer.status_code
    return answer.status_code, told['name']


async def test_email_is_queued_with_all_it_says_and_shown_as_it_was_given(client, row):
    answer = await client.post(
        '/emails',
        json=HELLO
        | {
            'from': 'Shop <noreply@example.com>',
            'to': ['anna@example.com', 'Ben <ben@example.com>'],
            'cc': 'carl@example.com',
            'bcc': ['dora@example.com'],
            'reply_to': 'Support <support@example.com>',
            'html': '<p>Hello</p>',
            'headers': {'X-Order': '12'},
            'tags': [{'name': 'campaign', 'value': 'may'}, {'name': 'new', 'value': '1'}],
            'priority': 'high',
            'email_type': 'receipt',
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers['content-type'] == 'application/json'
    email_id = answer.json()['id']
    assert isinstance(email_id, str)
    stored = await row(int(email_id))
    assert (stored['recipient'], stored['status'], stored['priority'], stored['headers']) == (
        'anna@example.com, Ben <ben@example.com>', 'pending', 0, {'X-Order': '12'},
    )  # fmt: skip
    assert stored['queued_by'] == 'token:shop'
    shown = (await client.get(f'/emails/{email_id}')).json()
    expected = {
        'object': 'email', 'id': email_id, 'from': 'Shop <noreply@example.com>',
        'to': ['anna@example.com', 'Ben <ben@example.com>'], 'cc': ['carl@example.com'],
        'bcc': ['dora@example.com'], 'reply_to': ['Support <support@example.com>'],
        'subject': 'Hello', 'text': 'Hello, Anna.', 'html': '<p>Hello</p>',
        'last_event': 'queued', 'scheduled_at': None, 'priority': 'high', 'email_type': 'receipt',
        'tags': [{'name': 'new', 'value': '1'}, {'name': 'campaign', 'value': 'may'}],
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


async def test_workers_are_woken_for_what_is_due_and_not_for_what_is_scheduled(client, pool):
    heard = []
    async with pool.acquire() as conn:
        await conn.add_listener(CHANNEL, listener := lambda *_: heard.append(1))
        await client.post('/emails', json=HELLO | {'scheduled_at': 'in 1 hour'})
        await client.post('/emails', json=HELLO)
        await wait_until(lambda: heard)
        await conn.remove_listener(CHANNEL, listener)
    assert len(heard) == 1


@pytest.mark.parametrize(
    ('change', 'status', 'name', 'words'),
    [
        ({'to': None}, 422, 'missing_required_field', 'Missing `to` field'),
        ({'subject': None}, 422, 'missing_required_field', 'Missing `subject` field'),
        ({'text': None}, 422, 'missing_required_field', 'Missing `html` or `text` field'),
        ({'to': 'no address'}, 422, 'validation_error', '`to`: '),
        ({'to': ['a@example.com', 7]}, 422, 'validation_error', '`to`: '),
        ({'to': []}, 422, 'validation_error', '`to`: '),
        ({'to': f'{"a" * 500}@example.com,' * 400}, 422, 'validation_error', '`to`: '),
        ({'cc': 'x@'}, 422, 'validation_error', '`cc`: '),
        ({'from': 'nobody'}, 422, 'invalid_from_address', '`from`: '),
        ({'from': 'boss@example.net'}, 403, 'validation_error', '`from`: boss@example.net is no'),
        ({'subject': 'a\nBcc: b@example.com'}, 422, 'validation_error', '`subject`: '),
        ({'text': 'a\0b'}, 422, 'validation_error', '`text`: '),
        ({'html': 7}, 422, 'validation_error', '`html`: '),
        ({'headers': {'To': 'x@example.com'}}, 422, 'validation_error', ''),
        ({'headers': [['X-A']]}, 422, 'validation_error', '`headers'),
        ({'tags': [{'name': 'a b', 'value': 'c'}]}, 422, 'validation_error', '`tags.0.name`'),
        ({'tags': [{'name': 'a', 'value': 'b'}] * 2}, 422, 'validation_error', 'twice'),
        ({'tags': [{'name': 'a'}]}, 422, 'missing_required_field', '`tags.0.value`'),
        ({'scheduled_at': 'someday'}, 422, 'validation_error', '`scheduled_at`: '),
        ({'scheduled_at': 'in 900 days'}, 422, 'validation_error', '365 days'),
        ({'expires_at': '2001-01-01T00:00:00Z'}, 422, 'validation_error', '`expires_at`: '),
        ({'priority': 'urgent'}, 422, 'validation_error', '`priority`: '),
        ({'recipent': 'a@example.com'}, 422, 'validation_error', '`recipent` is no field'),
        ({'topic_id': 'news'}, 422, 'validation_error', 'no topics'),
        ({'attachments': [{'path': 'http://10.0.0.1/x'}]}, 422, 'invalid_attachment', ''),
        (
            {'attachments': [{'content': 'YQ==', 'path': 'http://10.0.0.1/x'}]},
            422, 'invalid_attachment', 'fetches no files',
        ),
        ({'attachments': [{'content': '*'}]}, 422, 'invalid_attachment', '`attachments.0.content`'),
        ({'attachments': [{'content': [1, 256]}]}, 422, 'invalid_attachment', ''),
        ({'user_id': 'seven'}, 422, 'validation_error', '`user_id`: '),
    ],
)  # fmt: skip
async def test_email_that_can_never_be_sent_is_refused_with_its_field(
    client, count, change, status, name, words
):
    given = {field: value for field, value in (HELLO | change).items() if value is not None}
    answer = await client.post('/emails', json=given)
    assert error_of(answer) == (status, name), answer.text
    assert words in answer.json()['message']
    assert await count() == 0


@pytest.mark.parametrize(
    ('content', 'status'),
    [
        (b'', 400), (b'{', 400), (b'{"to": "\xff"}', 400), (b'[' * 5000, 400), (b'"text"', 422),
        (b'null', 422), (b'[]', 422), (b'{"to": "a@example.com", "to": 7}', 422),
        (b'{"to": "a@example.com", "subject": "\\ud800", "text": "x"}', 400),
        (b'{"max_attempts": 123456789012345678901234567890}', 422),
    ],
)  # fmt: skip
async def test_body_that_is_no_email_is_refused(client, content, status):
    answer = await client.post('/emails', content=content)
    assert error_of(answer) == (
        status,
        'validation_error' if status == 400 else error_of(answer)[1],
    )


async def test_who_has_no_token_or_one_for_something_else_is_told_in_the_words_of_resend(desk):
    nobody = await desk.client()
    assert error_of(await nobody.post('/emails', json=HELLO)) == (401, 'missing_api_key')
    stranger = await desk.client('re_123')
    assert error_of(await stranger.post('/emails', json=HELLO)) == (403, 'invalid_api_key')
    reader = await desk.client(await desk.token('reader', [ApiScope.READ]))
    assert error_of(await reader.post('/emails', json=HELLO)) == (401, 'restricted_api_key')
    assert error_of(await reader.get('/emails/1')) == (401, 'restricted_api_key')


async def test_paths_and_methods_that_there_are_none_are_told_in_the_words_of_resend(client):
    assert error_of(await client.get('/emails/1/attachments')) == (404, 'not_found')
    assert error_of(await client.delete('/emails')) == (405, 'method_not_allowed')


# Idempotency-Key.


async def test_same_key_and_body_get_the_first_answer_and_one_email(client, count):
    key = {'Idempotency-Key': 'welcome/7'}
    first = await client.post('/emails', json=HELLO, headers=key)
    again = await client.post('/emails', json=HELLO, headers=key)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert await count() == 1


async def test_same_key_with_another_body_is_a_conflict(client, count):
    key = {'Idempotency-Key': 'welcome/7'}
    await client.post('/emails', json=HELLO, headers=key)
    answer = await client.post('/emails', json=HELLO | {'subject': 'Other'}, headers=key)
    assert error_of(answer) == (409, 'invalid_idempotent_request')
    assert await count() == 1


@pytest.mark.parametrize('servers', [1, 2])
async def test_same_key_at_the_same_time_is_one_email_and_one_answer(desk, env, count, servers):
    token = await desk.token('shop', [ApiScope.SEND])
    async with open_desk(env) as other:
        clients = [await each.client(token) for each in (desk, other)[:servers]]
        answers = await asyncio.gather(
            *(
                client.post('/emails', json=HELLO, headers={'Idempotency-Key': f'key-{n % 3}'})
                for n in range(30)
                for client in clients
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 3
    assert await count() == 3


async def test_same_key_and_different_bodies_at_the_same_time_queue_one(client, count):
    answers = await asyncio.gather(
        *(
            client.post(
                '/emails', json=HELLO | {'subject': f'{n}'}, headers={'Idempotency-Key': 'k'}
            )
            for n in range(5)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert await count() == 1


async def test_refused_request_leaves_its_key_free(client, count):
    key = {'Idempotency-Key': 'k'}
    assert (await client.post('/emails', json={'to': 'x'}, headers=key)).status_code == 422
    unfit = HELLO | {'user_id': 'seven'}
    assert (await client.post('/emails', json=unfit, headers=key)).status_code == 422
    assert (await client.post('/emails', json=HELLO, headers=key)).status_code == 200
    assert await count() == 1


async def test_keys_of_two_tokens_are_two_and_those_of_an_organisation_are_shared(desk, count):
    names = ('shop', None), ('blog', None), ('first', '7'), ('second', '7')
    ids = []
    for name, organization_id in names:
        token = await desk.token(name, [ApiScope.SEND], organization_id=organization_id)
        client = await desk.client(token)
        answer = await client.post('/emails', json=HELLO, headers={'Idempotency-Key': 'same'})
        ids.append(answer.json()['id'])
    assert len(set(ids[:3])) == 3
    assert ids[2] == ids[3]
    assert await count() == 3


@pytest.mark.parametrize('key', ['', 'x' * 257])
async def test_key_of_no_length_or_too_long_is_refused(client, key):
    answer = await client.post('/emails', json=HELLO, headers={'Idempotency-Key': key})
    assert error_of(answer) == (400, 'invalid_idempotency_key')


async def test_key_past_its_time_is_new_again_and_is_forgotten(client, pool, count):
    key = {'Idempotency-Key': 'k'}
    await client.post('/emails', json=HELLO, headers=key)
    await pool.execute(
        "UPDATE mail_api_requests SET created_at = now() - $1 * interval '1 hour'", KEY_HOURS + 0.1
    )
    answer = await client.post('/emails', json=HELLO | {'subject': 'Other'}, headers=key)
    assert answer.status_code == 200
    assert await count() == 2
    assert await remove_old_requests(pool) == 0
    await pool.execute("UPDATE mail_api_requests SET created_at = now() - interval '2 days'")
    assert await remove_old_requests(pool) == 1


# Attachments.


async def test_attachments_are_stored_with_their_email_in_every_form_of_the_sdks(client, pool):
    image = bytes(range(256))
    batch = [
        HELLO,
        HELLO
        | {
            'attachments': [
                {'filename': 'a.pdf', 'content': base64.b64encode(image).decode()},
                {'filename': 'b.png', 'content': list(image), 'content_type': 'image/png',
                 'content_id': 'logo', 'path': None},
                {'content': base64.encodebytes(image).decode(), 'inline_content_id': 'old'},
            ]
        },
        HELLO,
    ]  # fmt: skip
    answer = await client.post('/emails/batch', json=batch)
    assert answer.status_code == 200, answer.text
    ids = [int(email['id']) for email in answer.json()['data']]
    assert ids == sorted(ids)
    stored = await pool.fetch('SELECT * FROM email_attachments ORDER BY email_id, position')
    assert [(a['email_id'], a['filename'], a['cid'], a['data']) for a in stored] == [
        (ids[1], 'a.pdf', None, image),
        (ids[1], 'b.png', 'logo', image),
        (ids[1], None, 'old', image),
    ]


async def test_attachments_beyond_what_workers_send_are_refused(client, count):
    files = [{'content': base64.b64encode(bytes(14_000_000)).decode()}] * 2
    answer = await client.post('/emails', json=HELLO | {'attachments': files})
    assert error_of(answer) == (422, 'validation_error')
    assert '`attachments`' in answer.json()['message']
    assert await count() == 0


# Batches.


async def test_batch_is_queued_in_its_order(client, row):
    batch = [HELLO | {'subject': f'{n}'} for n in range(MOST_EMAILS)]
    answer = await client.post('/emails/batch', json=batch)
    assert answer.status_code == 200, answer.text
    ids = [int(email['id']) for email in answer.json()['data']]
    assert set(answer.json()) == {'data'}
    assert [(await row(email_id))['subject'] for email_id in ids] == [e['subject'] for e in batch]


async def test_batch_with_a_wrong_email_is_refused_whole_and_names_its_place(client, count):
    answer = await client.post('/emails/batch', json=[HELLO, HELLO | {'to': 'x'}, HELLO])
    assert error_of(answer) == (422, 'validation_error')
    assert answer.json()['message'].startswith('e-mail 1: `to`')
    assert await count() == 0


async def test_permissive_batch_queues_what_is_sound_and_lists_the_rest(client, count):
    answer = await client.post(
        '/emails/batch', json=[HELLO, HELLO | {'to': 'x'}, HELLO, {}],
        headers={'x-batch-validation': 'permissive'},
    )  # fmt: skip
    told = answer.json()
    assert (answer.status_code, len(told['data'])) == (200, 2)
    assert [error['index'] for error in told['errors']] == [1, 3]
    assert told['errors'][1]['message'] == 'Missing `to` field'
    assert await count() == 2


async def test_permissive_batch_without_a_sound_email_answers_none(client, count):
    answer = await client.post(
        '/emails/batch',
        json=[{}],
        headers={'x-batch-validation': 'permissive', 'Idempotency-Key': 'k'},
    )
    assert (answer.status_code, answer.json()['data']) == (200, [])
    assert await count() == 0


@pytest.mark.parametrize('batch', [[], {}, 'x', [HELLO] * (MOST_EMAILS + 1), [7]])
async def test_what_is_no_batch_is_refused(client, batch):
    answer = await client.post('/emails/batch', json=batch)
    assert answer.status_code == 422, answer.text


async def test_batch_with_an_unknown_mode_is_refused(client):
    answer = await client.post('/emails/batch', json=[HELLO], headers={'x-batch-validation': 'lax'})
    assert error_of(answer) == (422, 'validation_error')


async def test_batch_with_a_key_is_queued_once(client, count):
    for _ in range(2):
        answer = await client.post(
            '/emails/batch', json=[HELLO] * 3, headers={'Idempotency-Key': 'b'}
        )
        assert len(answer.json()['data']) == 3
    assert await count() == 3


# Rows that PostgreSQL refuses.


async def test_row_that_the_application_refuses_is_its_senders_alone(client, pool, count):
    await pool.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no mail to Ben'; END $$"""
    )
    await pool.execute(
        """CREATE TRIGGER refuse BEFORE INSERT ON outbound_emails FOR EACH ROW
        WHEN (NEW.recipient = 'ben@example.com') EXECUTE FUNCTION refuse()"""
    )
    answers = await asyncio.gather(
        *(
            client.post(
                '/emails', json=HELLO | {'to': 'ben@example.com' if n == 7 else f'{n}@example.com'},
                headers={'Idempotency-Key': f'{n}'},
            )
            for n in range(20)
        )
    )  # fmt: skip
    assert [n for n, answer in enumerate(answers) if answer.status_code != 200] == [7]
    assert 'no mail to Ben' in answers[7].json()['message']
    assert await count() == 19


# Looking back, and changing one's mind.


async def test_list_is_paged_from_the_newest_both_ways(client):
    ids = [(await client.post('/emails', json=HELLO)).json()['id'] for _ in range(5)][::-1]

    async def page(**query):
        told = (await client.get('/emails', params=query)).json()
        assert told['object'] == 'list'
        return [email['id'] for email in told['data']], told['has_more']

    assert await page() == (ids, False)
    assert await page(limit=2) == (ids[:2], True)
    assert await page(limit=2, after=ids[1]) == (ids[2:4], True)
    assert await page(limit=2, after=ids[3]) == (ids[4:], False)
    assert await page(limit=2, before=ids[3]) == (ids[1:3], True)
    assert await page(before=ids[0]) == ([], False)
    first = (await client.get('/emails')).json()['data'][0]
    assert 'html' not in first


@pytest.mark.parametrize(
    'query', ['limit=0', 'limit=101', 'limit=x', 'after=x', 'after=1&before=2', 'after=-1',
              f'before={"9" * 30}'],
)  # fmt: skip
async def test_list_refuses_what_is_no_page(client, query):
    assert (await client.get(f'/emails?{query}')).status_code == 422


async def test_scheduled_email_is_moved_with_its_life_and_then_cancelled(client, row):
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    answer = await client.post('/emails', json=HELLO | {'scheduled_at': at.isoformat()})
    email_id = answer.json()['id']
    shown = (await client.get(f'/emails/{email_id}')).json()
    assert (shown['last_event'], shown['scheduled_at']) == ('scheduled', at.isoformat())
    life = (before := await row(int(email_id)))['expires_at'] - before['next_retry_at']
    later = at + timedelta(days=3)
    answer = await client.patch(f'/emails/{email_id}', json={'scheduled_at': later.isoformat()})
    assert (answer.status_code, answer.json()) == (200, {'object': 'email', 'id': email_id})
    after = await row(int(email_id))
    assert (after['next_retry_at'], after['expires_at'] - after['next_retry_at']) == (later, life)
    answer = await client.post(f'/emails/{email_id}/cancel')
    assert (answer.status_code, answer.json()) == (200, {'object': 'email', 'id': email_id})
    shown = (await client.get(f'/emails/{email_id}')).json()
    assert (shown['last_event'], shown['status']) == ('canceled', 'cancelled')
    for answer in (
        await client.post(f'/emails/{email_id}/cancel'),
        await client.patch(f'/emails/{email_id}', json={'scheduled_at': 'in 1 min'}),
    ):
        assert error_of(answer) == (422, 'validation_error')
        assert 'is cancelled' in answer.json()['message']


async def test_changes_are_audited_with_who_and_what(client, pool):
    email_id = (await client.post('/emails', json=HELLO)).json()['id']
    await client.patch(f'/emails/{email_id}', json={'scheduled_at': 'in 1 hour'})
    await client.post(f'/emails/{email_id}/cancel')
    entries = await pool.fetch(
        "SELECT actor, action, email_ids FROM mail_audit WHERE action LIKE 'email.%' ORDER BY id"
    )
    assert [tuple(entry) for entry in entries] == [
        ('shop', 'email.reschedule', [int(email_id)]),
        ('shop', 'email.cancel', [int(email_id)]),
    ]


@pytest.mark.parametrize('content', [b'', b'{}', b'[]', b'{"scheduled_at": null}', b'{"a": 1}'])
async def test_rescheduling_to_no_moment_is_refused(client, content):
    email_id = (await client.post('/emails', json=HELLO)).json()['id']
    answer = await client.patch(f'/emails/{email_id}', content=content)
    assert answer.status_code in {400, 422}, answer.text


@pytest.mark.parametrize('email_id', ['1', '999999999999999999'])
async def test_unknown_email_is_not_found(client, email_id):
    assert error_of(await client.get(f'/emails/{email_id}')) == (404, 'not_found')
    assert error_of(await client.post(f'/emails/{email_id}/cancel')) == (404, 'not_found')
    change = await client.patch(f'/emails/{email_id}', json={'scheduled_at': 'in 1 hour'})
    assert error_of(change) == (404, 'not_found')


@pytest.mark.parametrize('email_id', ['x', '-1', '1.0', '٣', '9' * 19, '4ef9a417-02e9-4d39'])
async def test_id_that_is_none_is_refused(client, email_id):
    assert error_of(await client.get(f'/emails/{email_id}')) == (422, 'invalid_parameter')


async def test_token_of_an_organisation_sends_for_it_and_sees_its_own_alone(desk, client, row):
    other = (await client.post('/emails', json=HELLO)).json()['id']
    bound = await desk.client(await desk.token('seven', [ApiScope.SEND], organization_id='7'))
    own = (await bound.post('/emails', json=HELLO)).json()['id']
    assert (await row(int(own)))['organization_id'] == 7
    assert [email['id'] for email in (await bound.get('/emails')).json()['data']] == [own]
    assert error_of(await bound.get(f'/emails/{other}')) == (404, 'not_found')
    assert error_of(await bound.post(f'/emails/{other}/cancel')) == (404, 'not_found')
    answer = await bound.post('/emails', json=HELLO | {'organization_id': 8})
    assert error_of(answer) == (403, 'validation_error')
    assert (await bound.post('/emails', json=HELLO | {'organization_id': '7'})).status_code == 200


@pytest.mark.parametrize(
    ('change', 'event'),
    [
        ("status = 'sent', sent_at = now()", 'sent'),
        ("status = 'failed', next_retry_at = now()", 'delivery_delayed'),
        ("status = 'failed', next_retry_at = NULL, dead_reason = 'rejected'", 'bounced'),
        ("status = 'failed', next_retry_at = NULL, dead_reason = 'suppressed'", 'suppressed'),
        ("status = 'failed', next_retry_at = NULL, dead_reason = 'render'", 'failed'),
        ("status = 'uncertain', next_retry_at = NULL", 'failed'),
        ("status = 'expired'", 'failed'),
        ("status = 'held'", 'queued'),
    ],
)
async def test_state_is_told_as_one_of_resends_events(client, pool, change, event):
    email_id = (await client.post('/emails', json=HELLO)).json()['id']
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', int(email_id))
    assert (await client.get(f'/emails/{email_id}')).json()['last_event'] == event


async def test_row_that_cannot_be_read_well_is_shown_as_it_stands(client, pool):
    email_id = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, cc, status, tags) '
        "VALUES ('<<', $1, 'pending', '[1]') RETURNING id",
        'x <' * 5000,
    )
    shown = (await client.get(f'/emails/{email_id}')).json()
    assert (shown['to'], shown['cc'], shown['tags']) == (['<<'], ['x <' * 5000], [])
    assert (await client.get('/emails')).status_code == 200


# Large bodies.


@pytest.fixture
async def lag():
    """The longest time for which the loop was held, in seconds."""
    longest = [0.0]

    async def watch():
        loop = asyncio.get_running_loop()
        while True:
            began_at = loop.time()
            await asyncio.sleep(0.001)
            longest[0] = max(longest[0], loop.time() - began_at)

    watching = asyncio.create_task(watch())
    yield longest
    watching.cancel()


FILE = bytes(range(256)) * 8000


@pytest.mark.parametrize(
    'content', [base64.b64encode(FILE).decode(), base64.encodebytes(FILE).decode(), list(FILE)]
)
async def test_large_file_is_stored_as_it_is_in_every_form(client, pool, content):
    document = HELLO | {'attachments': [{'filename': 'a.bin', 'content': content}]}
    answer = await client.post('/emails', json=document)
    assert answer.status_code == 200, answer.text
    assert await pool.fetchval('SELECT data FROM email_attachments') == FILE


@pytest.mark.parametrize(
    ('content', 'status', 'name'),
    [
        (b'[' + b'1,' * 3_000_000 + b'1]', 413, 'validation_error'),
        (b'[' + b'{},' * 2_000_000 + b'1]', 413, 'validation_error'),
        (b'[' * 3_000_000, 400, 'validation_error'),
        (b'{"to": "' + b'x' * 3_000_000, 400, 'validation_error'),
        (b'{"to": "' + b'x,' * 3_000_000 + b'"}', 422, 'missing_required_field'),
        (b'{"to": NaN, "x": "' + b'x' * 3_000_000 + b'"}', 400, 'validation_error'),
        (
            b'{"to": "a@example.com", "subject": "x", "text": "x", "attachments": [{"content": "'
            + b'A' * 6_000_000 + b'*"}]}',
            422, 'invalid_attachment',
        ),
        (b'x' * (MAX_BYTES + 1), 413, 'validation_error'),
    ],
    ids=range(8),
)  # fmt: skip
async def test_large_body_that_is_hostile_is_refused_and_does_not_hold_the_loop(
    client, count, lag, content, status, name
):
    # What holds this loop besides: the client, which is in it.
    answer = await client.post('/emails', content=content)
    assert error_of(answer) == (status, name), answer.text
    assert lag[0] < 1.0
    assert await count() == 0


async def test_bodies_that_are_under_way_are_limited_together(client, monkeypatch, count):
    monkeypatch.setattr(bodies, 'HELD_BYTES', 200)
    answer = await client.post('/emails', json=HELLO | {'text': 'x' * 200})
    assert error_of(answer) == (429, 'rate_limit_exceeded')
    assert answer.headers['retry-after'] == '1'
    assert (await client.post('/emails', json=HELLO)).status_code == 200
    assert await count() == 1


# What is ours.


async def test_template_is_found_by_its_id_and_by_its_name(client, pool, row):
    template_id = await pool.fetchval(
        "INSERT INTO email_templates (name, subject, body_text) VALUES ('welcome', 'Hi', 'Hi') "
        'RETURNING id'
    )
    for given in (str(template_id), template_id, 'welcome'):
        template = {'id': given, 'variables': {'name': 'Anna'}}
        answer = await client.post('/emails', json={'to': 'a@example.com', 'template': template})
        assert answer.status_code == 200, answer.text
        stored = await row(int(answer.json()['id']))
        assert (stored['template_id'], stored['template_data']) == (template_id, {'name': 'Anna'})


@pytest.mark.parametrize('template', ['nobody', '999', 'a\0b', 'x' * 300])
async def test_template_that_there_is_none_is_refused(client, count, template):
    answer = await client.post(
        '/emails', json={'to': 'a@example.com', 'template': {'id': template}}
    )
    assert error_of(answer) == (422, 'not_found')
    assert await count() == 0


async def test_message_as_given_is_queued_with_its_own_recipients(client, row):
    message = b'From: noreply@example.com\r\nTo: anna@example.com\r\nSubject: Hi\r\n\r\nHi\r\n'
    answer = await client.post('/emails', json={'raw': base64.b64encode(message).decode()})
    assert answer.status_code == 200, answer.text
    assert (await row(int(answer.json()['id'])))['raw_message'] == message


async def test_fields_of_ours_are_stored_beside_those_of_resend(client, row):
    answer = await client.post(
        '/emails',
        json=HELLO
        | {
            'metadata': {'order': 7},
            'message_id': '<1@example.com>',
            'max_attempts': 3,
            'user_id': '8',
            'expires_at': 'in 2 hours',
            'one_copy_each': True,
            'envelope_from': '<>',
        },
    )
    assert answer.status_code == 200, answer.text
    stored = await row(int(answer.json()['id']))
    assert (stored['metadata'], stored['max_attempts'], stored['user_id']) == ({'order': 7}, 3, 8)
    assert (stored['message_id'], stored['one_copy_each']) == ('<1@example.com>', True)
    assert timedelta(minutes=119) < stored['expires_at'] - stored['created_at'] < timedelta(hours=2)


# PostgreSQL away.


@pytest.mark.parametrize('way', [Way.AWAY, Way.SILENT])
async def test_without_postgresql_the_answer_is_503_within_the_deadline_and_nothing_is_lost(
    way, desk, env, count
):
    token = await desk.token('shop', [ApiScope.SEND])
    async with (
        Gate(env['DATABASE_URL']) as gate,
        open_desk(env, postgres_dsn=gate.url, deadline_s=2) as guarded,
    ):
        client = await guarded.client(token)
        key = {'Idempotency-Key': 'k'}
        assert (await client.post('/emails', json=HELLO)).status_code == 200
        gate.turn(way)
        began_at = asyncio.get_running_loop().time()
        for content in (HELLO, [HELLO, HELLO]):
            path = '/emails/batch' if isinstance(content, list) else '/emails'
            answer = await client.post(path, json=content, headers=key)
            assert error_of(answer) == (503, 'application_error')
            assert answer.headers['retry-after'] == '5'
            assert 'PostgreSQL' in answer.json()['message']
        assert asyncio.get_running_loop().time() - began_at < 10
        gate.turn(Way.OPEN)

        async def is_queued():
            return (await client.post('/emails', json=HELLO, headers=key)).status_code == 200

        await wait_until(is_queued)
        await is_queued()
    assert await count() == 2
