"""Retry, cancel and resolve over HTTP, one e-mail or all that fit, and what the audit says."""

import asyncio

import pytest

from actions.tokens import ApiScope
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert, rendered, run, statuses

DEAD = {'status': 'failed', 'attempts': 5, 'dead_reason': 'rejected'}
NOW = {'last_attempt_at': 'sql:now()'}
UNCERTAIN = {'status': 'uncertain', 'attempts': 1}


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def operator(desk):
    return await desk.client(await desk.token('anna', [ApiScope.OPERATE]))


@pytest.fixture
def audit(pool):
    async def audit():
        rows = await pool.fetch("SELECT * FROM mail_audit WHERE action LIKE 'email%' ORDER BY id")
        return [dict(row) for row in rows]

    return audit


@pytest.mark.parametrize('path', ['/admin/emails/{}/retry', '/api/emails/{}/retry'])
async def test_retry_makes_an_email_due_and_wakes_a_worker(operator, pool, redis, path, audit):
    email_id = await insert(pool, **DEAD)
    answer = await operator.post(path.format(email_id), json={'reason': 'mailbox is there now'})
    assert answer.status_code == 202, answer.text
    state = answer.json()
    assert (state['id'], state['status'], state['dead_reason']) == (email_id, 'pending', None)
    assert state['next_retry_at']
    assert [problem['what'] for problem in state['problems']] == [
        '1 e-mail due, but no worker replied'
    ]
    assert await statuses(pool) == {email_id: 'pending'}
    assert await redis.zcard('arq:queue') == 1
    (entry,) = await audit()
    assert (entry['actor'], entry['origin'], entry['action']) == (
        'anna',
        '127.0.0.1',
        'email.retry',
    )
    assert entry['email_ids'] == [email_id]
    assert entry['details'] == {'id': email_id, 'reason': 'mailbox is there now'}
    assert entry['token_id'] == await pool.fetchval('SELECT id FROM mail_api_tokens')
    assert entry['finished_at'] is not None


async def test_retry_needs_no_body_and_takes_null(operator, pool):
    for more in ({}, {'json': None}, {'json': {}}, {'content': b'null'}):
        email_id = await insert(pool, **DEAD)
        answer = await operator.post(f'/admin/emails/{email_id}/retry', **more)
        assert answer.status_code in {202, 422}, answer.text
        if 'content' not in more:
            assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ('columns', 'because'),
    [
        ({'status': 'sent', 'sent_at': 'sql:now()'}, 'it was sent'),
        ({'status': 'sending'}, 'is sending it'),
        ({}, 'it is pending already'),
        ({'status': 'held'}, 'it is held'),
    ],
)
async def test_what_cannot_be_retried_is_told_why(operator, pool, audit, columns, because):
    email_id = await insert(pool, **columns)
    before = await statuses(pool)
    answer = await operator.post(f'/admin/emails/{email_id}/retry')
    assert (answer.status_code, answer.headers['content-type']) == (
        409,
        'application/problem+json',
    )
    assert answer.json()['type'] == 'urn:arq-mail-worker:problem:not-retryable'
    assert because in answer.json()['detail']
    assert await statuses(pool) == before
    (entry,) = await audit()
    assert (entry['email_ids'], because in entry['problem']) == ([], True)


async def test_unknown_email_is_404_and_no_token_401(operator, desk):
    answer = await operator.post('/admin/emails/123/retry')
    assert (answer.status_code, answer.json()['detail']) == (404, 'there is no e-mail 123')
    nobody = await desk.client()
    assert (await nobody.post('/admin/emails/123/retry')).status_code == 401


async def test_cancel_ends_what_waits_and_not_what_is_sent(operator, pool):
    waiting = [
        await insert(pool),
        await insert(pool, **DEAD),
        await insert(pool, status='held'),
        await insert(pool, status='uncertain', attempts=1),
    ]
    for email_id in waiting:
        answer = await operator.post(f'/api/emails/{email_id}/cancel')
        assert (answer.status_code, answer.json()['status']) == (200, 'cancelled')
    for columns, because in (
        ({'status': 'sent', 'sent_at': 'sql:now()'}, 'it was sent'),
        ({'status': 'sending'}, 'is sending it'),
        ({'status': 'cancelled'}, 'it is cancelled already'),
    ):
        email_id = await insert(pool, **columns)
        answer = await operator.post(f'/api/emails/{email_id}/cancel')
        assert (answer.status_code, because in answer.json()['detail']) == (409, True)
        assert answer.json()['type'].endswith(':not-cancellable')


@pytest.mark.parametrize('decision', ['sent', 'failed'])
async def test_resolve_decides_about_an_uncertain_email(operator, pool, decision, audit):
    email_id = await insert(pool, status='uncertain', attempts=1, last_attempt_at='sql:now()')
    answer = await operator.post(f'/api/emails/{email_id}/resolve', json={'decision': decision})
    assert (answer.status_code, answer.json()['status']) == (200, decision)
    again = await operator.post(f'/api/emails/{email_id}/resolve', json={'decision': 'sent'})
    assert (again.status_code, again.json()['type'].rpartition(':')[2]) == (409, 'not-resolvable')
    assert [entry['details']['decision'] for entry in await audit()] == [decision, 'sent']


@pytest.mark.parametrize(
    'body', [{}, {'decision': 'gone'}, {'decision': 'sent', 'more': 1}, [], 'sent', None]
)
async def test_resolve_refuses_another_word(operator, pool, body):
    email_id = await insert(pool, status='uncertain', attempts=1)
    answer = await operator.post(f'/api/emails/{email_id}/resolve', json=body)
    assert answer.status_code == 422
    assert await statuses(pool) == {email_id: 'uncertain'}


async def test_two_who_retry_at_once_change_it_once(operator, pool, audit):
    email_id = await insert(pool, **DEAD)
    answers = await asyncio.gather(
        *(operator.post(f'/api/emails/{email_id}/retry') for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 7]
    assert sum(len(entry['email_ids']) for entry in await audit()) == 1


async def test_dry_run_of_many_counts_and_changes_and_writes_nothing(operator, pool, audit):
    dead = [await insert(pool, **DEAD, email_type='news') for _ in range(3)]
    await insert(pool, **DEAD, email_type='receipt')
    body = {'status': 'dead', 'filter': {'email_type': 'news'}, 'dry_run': True}
    before = await statuses(pool)
    for action in ('retry', 'cancel'):
        answer = await operator.post(f'/api/emails/{action}', json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found['matched'], found['changed'], found['dry_run']) == (3, [], True)
        assert {email['id'] for email in found['sample']} == set(dead)
        assert found['selection'] == {'status': ['dead'], 'type': 'news'}
    assert await statuses(pool) == before
    assert await audit() == []


async def test_retry_of_many_changes_what_was_counted_up_to_the_limit(operator, pool, audit):
    dead = [await insert(pool, **DEAD) for _ in range(5)]
    body = {'status': 'failed', 'expected': 5, 'limit': 3, 'reason': 'the relay is back'}
    done = (await operator.post('/api/emails/retry', json=body)).json()
    assert (done['changed'], done['left']) == (dead[:3], 2)
    assert '5 e-mails refused for good' in done['warnings'][0]
    (entry,) = await audit()
    assert entry['email_ids'] == dead[:3]
    assert entry['details'] == {
        'reason': 'the relay is back', 'filter': {}, 'limit': 3, 'expected': 5, 'dry_run': False,
        'status': 'failed',
    }  # fmt: skip


@pytest.mark.parametrize('action', ['retry', 'cancel', 'resolve'])
async def test_more_than_expected_changes_nothing(operator, pool, action):
    for _ in range(3):
        await insert(pool, status='uncertain', attempts=1)
    before = await statuses(pool)
    what = {'decision': 'sent'} if action == 'resolve' else {'status': 'uncertain'}
    answer = await operator.post(f'/api/emails/{action}', json=what | {'expected': 2})
    assert (answer.status_code, answer.json()['type'].rpartition(':')[2]) == (
        409,
        'more-than-expected',
    )
    assert await statuses(pool) == before


async def test_cancel_and_resolve_of_many_name_what_they_changed(operator, pool):
    news = [await insert(pool, email_type='news') for _ in range(2)]
    other = await insert(pool, email_type='receipt')
    body = {'status': 'pending', 'filter': {'email_type': 'news'}}
    assert (await operator.post('/api/emails/cancel', json=body)).json()['changed'] == news
    uncertain = await insert(pool, status='uncertain', attempts=1)
    done = await operator.post('/api/emails/resolve', json={'decision': 'sent'})
    assert done.json()['changed'] == [uncertain]
    assert await statuses(pool) == {
        **dict.fromkeys(news, 'cancelled'), other: 'pending', uncertain: 'sent',
    }  # fmt: skip


async def test_token_of_an_organisation_changes_its_own_only(desk, pool):
    own = await insert(pool, **DEAD, organization_id=7)
    foreign = await insert(pool, **DEAD, organization_id=8)
    nobodys = await insert(pool, **DEAD)
    client = await desk.client(await desk.token('seven', [ApiScope.OPERATE], organization_id='7'))
    for email_id in (foreign, nobodys):
        for path in ('/admin/emails/{}/retry', '/api/emails/{}/retry', '/api/emails/{}/cancel'):
            assert (await client.post(path.format(email_id))).status_code == 404
        resolving = await client.post(
            f'/api/emails/{email_id}/resolve', json={'decision': 'failed'}
        )
        assert resolving.status_code == 404
    done = (await client.post('/api/emails/retry', json={'status': 'failed'})).json()
    assert done['changed'] == [own]
    cancelled = await client.post('/api/emails/cancel', json={'status': 'failed'})
    assert cancelled.json()['changed'] == []
    assert await statuses(pool) == {own: 'pending', foreign: 'failed', nobodys: 'failed'}


async def test_who_may_not_operate_changes_nothing(desk, pool):
    email_id = await insert(pool, **DEAD)
    client = await desk.client(await desk.token('looker', [ApiScope.READ, ApiScope.SEND]))
    for path in (
        f'/admin/emails/{email_id}/retry', f'/api/emails/{email_id}/retry',
        f'/api/emails/{email_id}/cancel', f'/api/emails/{email_id}/resolve',
        '/api/emails/retry', '/api/emails/cancel', '/api/emails/resolve',
    ):  # fmt: skip
        body = {'decision': 'failed', 'status': 'failed'}
        assert (await client.post(path, json=body)).status_code == 403, path
    assert await statuses(pool) == {email_id: 'failed'}


async def test_command_shows_the_change(operator, pool, env):
    email_id = await insert(pool, **DEAD)
    await operator.post(f'/api/emails/{email_id}/retry', json={'reason': 'asked for'})
    answer = await run(env, 'audit', 'ls', '--email', str(email_id))
    shown = rendered('audit', answer)
    for word in ('anna', '127.0.0.1', 'email.retry', str(email_id), 'asked for'):
        assert word in shown


@pytest.mark.parametrize(
    ('words', 'columns', 'changes'),
    [
        (('retry', '{id}', '--yes'), DEAD, True),
        (('retry', '--status', 'dead', '--since', '2h', '--yes'), DEAD | NOW, True),
        (
            ('resolve', '{id}', '--as', 'sent', '--yes'),
            {'status': 'uncertain', 'attempts': 1},
            True,
        ),
        (('held', 'release', '{id}', '--yes'), {'status': 'held'}, True),
        (('held', 'cancel', '--all', '--yes'), {'status': 'held'}, True),
        (('purge', 'outbox', '--status', 'pending', '--yes'), {}, True),
        (('suppress', 'add', 'bob@example.com', '--reason', 'left', '--yes'), {}, False),
        (('cron', 'pause', 'cleanup_old_sessions', '--force', '--yes'), {}, False),
    ],
    ids=lambda words: ' '.join(words[:3]) if isinstance(words, tuple) else None,
)
async def test_what_a_command_changed_is_in_the_audit(env, pool, words, columns, changes):
    email_id = await insert(pool, **columns)
    words = [word.format(id=email_id) for word in words]
    dry = [word for word in words if word != '--yes']
    await run(env, *dry, '--dry-run')
    assert await pool.fetch('SELECT * FROM mail_audit') == []
    await run(env, *words)
    (entry,) = await pool.fetch('SELECT * FROM mail_audit')
    assert entry['action'] == f'ops {words[0]}'
    assert entry['email_ids'] == ([email_id] if changes else [])
    assert entry['actor']
    assert entry['origin']
    assert set(map(str, entry['details'].values())) & {
        *words,
        f"['{email_id}']",
        "['bob@example.com']",
    }
