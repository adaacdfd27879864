import json

import pytest
from arq.constants import default_queue_name, job_key_prefix

from db import claims
from db.late import record_late
from db.results import Result
from db.suppressions import add
from db.switches import SwitchKind, pause
from fleet.registry import RECORD_PREFIX, WORKERS_KEY
from mail.outcome import Decision, Delivery, Outcome, Phase, Reply, Status
from tests.conftest import wait_until
from tests.services.ops_desk import as_document, closed_port, insert, rendered, run

RECORD = {'worker': 'mail-7@host:42', 'queue': 'arq:queue',
    'started_at': '2026-01-01T00:00:00+00:00', 'emails': [],
          'outcomes': {}, 'rss_bytes': 2**26}  # fmt: skip


async def register(redis, **more):
    await redis.set(RECORD_PREFIX + RECORD['worker'], json.dumps(RECORD | more), px=15000)
    await redis.zadd(WORKERS_KEY, {RECORD['worker']: 1})


async def explained(env, email_id, status=0):
    given = await run(env, 'explain', str(email_id))
    assert given.exit_status == status, given.problems
    return given.document, rendered('explain', given)


async def test_explain_of_waiting_mail_names_everything_in_its_way(env, pool, redis):
    email_id = await insert(
        pool, recipient='anna@example.com, ben@example.com', email_type='receipt', template_id=404,
        content_id='gone',
        lost_attempts=1, next_retry_at="sql:now() - interval '1 minute'",
    )  # fmt: skip
    await insert(pool, next_retry_at="sql:now() - interval '2 minutes'")
    await register(
        redis,
        relays=[
            {'name': 'primary', 'state': 'cooling down', 'retry_in_s': 9, 'last_error': 'refused'}
        ],
    )
    await pause(pool, SwitchKind.EMAIL_TYPE, 'receipt', reason='incident', by='anna')
    await add(pool, ['ben@example.com'], reason='hard bounce')
    document, sentences = await explained(env, email_id)
    assert (
        document['next']
        == 'It is due: the next free worker or sweep (every 5 minutes) makes attempt 1 of 5.'
    )
    told = ' '.join(reason['what'] for reason in document['because'])
    for expected in (
        'E-mails of its type receipt are paused by anna',
        'The relay primary cools down for 9 s: refused.',
        'Its template 404 does not exist.', 'Its attachments are gone: MongoDB has no gone.',
        'A recipient is on the list of those who get no mail: hard bounce.',
        '1 worker was lost with it',
        '1 e-mail is due before it.',
    ):  # fmt: skip
        assert expected in told
        assert expected in sentences
    assert len(document['because']) == 7


async def test_explain_without_a_worker_says_so_and_ends_with_69(env, pool):
    email_id = await insert(pool)
    document, _ = await explained(env, email_id, status=69)
    assert document['because'] == [
        {
            'what': 'No worker replies.',
            'remedy': 'Start one with `arq worker.WorkerSettings`, or read its log.',
        }
    ]


async def test_explain_of_mail_in_every_other_state(env, pool, redis):
    await register(redis, emails=[{'id': 1, 'phase': 'rcpt', 'relay': 'backup', 'started_at': 1.0}])
    await pool.execute("SELECT setval('outbound_emails_id_seq', 1, false)")
    cases = {
        'rcpt': {'status': 'sending'},
        'mail-8@host:1 does not reply': {'status': 'sending', 'claimed_by': 'mail-8@host:1'},
        'primary accepted it': {'status': 'sent', 'sent_at': 'sql:now()', 'relay': 'primary'},
        'The relay refused it for good: 550 <***@example.com> no.': {
            'status': 'failed', 'dead_reason': 'rejected',
            'smtp_response': '550 <anna@example.com> no'},
        'Nobody knows whether it arrived: no reply came.': {'status': 'uncertain', 'attempts': 1},
        'it was not sent before': {'status': 'expired', 'expires_at': 'sql:now()'},
        'it was cancelled': {'status': 'cancelled'},
        'its expires_at is over': {'expires_at': 'sql:now()'},
        'a worker makes attempt 2 of 5': {
            'status': 'failed', 'attempts': 1, 'next_retry_at': "sql:now() + interval '1 hour'"},
    }  # fmt: skip
    for expected, columns in cases.items():
        email_id = await insert(pool, **columns)
        document, sentences = await explained(env, email_id)
        assert expected in sentences, sentences
        assert (document['now'] is None) == (email_id != 1)


async def test_show_tells_worker_phase_and_template(env, pool, redis):
    template_id = await pool.fetchval(
        'INSERT INTO email_templates (name, subject, body_text) '
        "VALUES ('receipt', 'Hi', 'Code {{ code }}') RETURNING id"
    )
    email_id = await insert(pool, status='sending', template_id=template_id)
    await register(
        redis, emails=[{'id': email_id, 'phase': 'data', 'relay': 'primary', 'started_at': 1.0}]
    )
    given = await run(env, 'show', str(email_id))
    assert given.document['now']['phase'] == 'data'
    assert (given.document['template']['name'], given.document['template']['body_text']) == (
        'receipt',
        None,
    )
    told = rendered('show', given)
    assert 'data' in told
    assert 'receipt' in told
    assert 'Code' not in told
    shown = await run(env, 'show', str(email_id), '--content')
    assert 'Code {{ code }}' in rendered('show', shown)
    lost = await run(env, 'show', str(await insert(pool, template_id=404)))
    assert as_document(lost)['template'] == {'id': '404', 'missing': True}


async def test_explain_and_doctor_tell_of_a_job_that_a_worker_refused(
    env, pool, redis, start_worker
):
    """Its producer writes JSON: without this, it is known to the worker's log alone."""
    email_id = await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    worker = await start_worker().started()
    body = json.dumps({'t': None, 'f': 'send_email', 'a': [str(email_id)], 'k': {}, 'et': 1})
    await redis.set(f'{job_key_prefix}json', body)
    await redis.zadd(default_queue_name, {'json': 1})
    await wait_until(lambda: 'deserializing job json failed' in worker.log)
    _, sentences = await explained(env, email_id)
    assert 'A job for it was refused' in sentences
    assert 'it is JSON' in sentences

    async def findings():
        given = await run(env, 'doctor', 'jobs')
        return given.document['findings']

    (finding,) = await wait_until(findings)  # workers register every 5 s
    assert (finding['severity'], finding['check']) == ('warning', 'jobs')
    assert finding['what'].startswith('1 job was refused (unreadable)')
    assert 'default serializer' in finding['remedy']


async def test_explain_goes_on_without_redis_and_mongodb(env, pool):
    email_id = await insert(pool, content_id='c1')
    away = {
        'ARQ_REDIS_URL': f'redis://127.0.0.1:{closed_port()}/1',
        'MONGODB_URL': f'mongodb://127.0.0.1:{closed_port()}',
        'MONGODB_TIMEOUT_S': '0.2',
    }
    given = await run(env | away, 'explain', str(email_id))
    assert given.exit_status == 1
    assert sorted(problem.service for problem in given.problems) == ['MongoDB', 'Redis']
    assert [reason['what'] for reason in given.document['because']] == [
        'MongoDB does not answer, and it has attachments: it waits, which costs no attempt.'
    ]
    unknown = await run(env, 'explain', '404')
    assert (unknown.exit_status, unknown.problems[0].what) == (1, 'there is no e-mail 404')


async def test_explain_of_sent_mail_names_the_recipients_that_were_refused(env, pool):
    outcomes = {f'{i}@example.com': ['rejected', f'550 no {i}@example.com'] for i in range(12)}
    email_id = await insert(
        pool,
        status='sent',
        sent_at='sql:now()',
        recipient_outcomes=outcomes
        | {'ben@b.com': ['rejected', '550 x'], 'anna@example.org': ['accepted', '250 ok']},
    )
    document, sentences = await explained(env, email_id)
    (reason,) = document['because']
    what = (
        '13 of 14 recipients did not get it: 12 x ***@example.com: 550 no ***@example.com; '
        '***@b.com: 550 x.'
    )
    assert reason['what'] == what
    assert reason['what'] in sentences


async def test_explain_of_sent_mail_survives_outcomes_that_are_none(env, pool):
    for outcomes in ([], {'anna@example.com': 'rejected'}, {'anna@example.com': [['rejected']]}):
        email_id = await insert(
            pool, status='sent', sent_at='sql:now()', recipient_outcomes=outcomes
        )
        assert (await explained(env, email_id))[0]['because'] == []


async def taken_back(pool, queue, change: str) -> int:
    """Queue an e-mail that a relay accepts after its row was changed."""
    email_id = await queue()
    [claim] = await claims.claim(
        pool, [email_id], worker='w', lease_s=30, message_id_domain='example.com'
    )
    await pool.execute(change)
    delivery = Delivery(Outcome.ACCEPTED, Phase.REPLIED, 'primary', Reply(250, 'ok'))
    await record_late(pool, [Result(claim, delivery, Decision(Status.SENT), 0.1)], worker='w')
    return email_id


async def test_explain_of_cancelled_mail_tells_that_a_relay_accepted_it_meanwhile(env, pool, queue):
    email_id = await taken_back(pool, queue, "UPDATE outbound_emails SET status = 'cancelled'")
    document, sentences = await explained(env, email_id)
    assert 'was accepted, so it was delivered' in document['because'][0]['what']
    assert 'was accepted, so it was delivered' in sentences
    assert (await run(env, 'status')).document['outbox']['sent_in_part_last_day'] == 0


@pytest.mark.parametrize('command', ['show', 'explain'])
async def test_deleted_mail_is_told_of_by_its_attempts(env, pool, queue, command):
    email_id = await taken_back(pool, queue, 'DELETE FROM outbound_emails')
    given = await run(env, command, str(email_id))
    assert 'its row was deleted. attempt 1 at' in given.problems[0].what
    assert 'by primary: accepted' in given.problems[0].what
