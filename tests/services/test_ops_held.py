"""E-mails that are held.

Nobody but an operator decides about them, and every command knows them.
"""

import sys
from typing import Any

import pytest

from db.held import COUNT_ALL_HELD_SQL
from db.transitions import EXPIRABLE_SQL
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.process_pending_emails import process_pending_emails
from jobs.retry_failed_email import retry_failed_email
from jobs.send_email import send_email
from tests.services.ops_desk import Typed, as_document, insert, ops, rendered, run, statuses


def ago(days: float) -> str:
    return f"sql:now() - interval '{days} days'"


async def hold(pool: Any, days: float = 40, **columns: Any) -> int:
    times = {'next_retry_at': ago(days), 'created_at': ago(days), 'updated_at': ago(0)}
    return await insert(pool, **times | {'status': 'held'} | columns)


async def test_listing_counts_by_type_and_age_the_oldest_first(env, pool):
    news = [await hold(pool, days, email_type='news') for days in (0.5, 3, 3, 20)]
    reset = await hold(
        pool, 50, email_type='reset', expires_at=ago(49), recipient='anna@example.com'
    )
    plain = await hold(pool, 2, next_retry_at=None)
    await insert(pool)
    given = await run(env, 'held', 'ls')
    document = as_document(given)
    assert (given.exit_status, document['held']) == (0, 6)
    assert document['by_age'] == {
        'within_a_day': 1,
        'within_a_week': 3,
        'within_a_month': 1,
        'older': 1,
    }
    assert [(row['email_type'], row['emails'],
        row['past_expiry']) for row in document['by_type']] == [
        ('reset', 1, 1), ('news', 4, 0), (None, 1, 0)
    ]  # fmt: skip
    assert [email['id'] for email in document['emails']] == [
        reset,
        news[3],
        news[1],
        news[2],
        plain,
        news[0],
    ]
    assert document['emails'][0]['recipient'] == '***@example.com'
    assert 'The oldest 2 of 6' in rendered('held', await run(env, 'held', 'ls', '--limit', '2'))
    narrowed = await run(env, 'held', 'ls', '--type', 'news', '--until', '1d', '--since', '7d')
    assert [email['id'] for email in narrowed.document['emails']] == news[1:3]


async def test_listing_of_nothing_says_so(env):
    given = await run(env, 'held', 'ls')
    assert (given.exit_status, rendered('held', given)) == (0, 'No e-mail is held.\n')


async def test_released_mail_is_due_now_with_an_attempt_and_a_life_and_is_sent(
    env, ctx, pool, inbox, row
):
    email_id = await hold(
        pool,
        recipient='released@example.com',
        attempts=5,
        max_attempts=5,
        lost_attempts=2,
        expires_at=ago(39),
    )
    given = await run(env, 'held', 'release', str(email_id), '--yes')
    assert given.document['ids'] == [email_id]
    assert given.exit_status == 69  # nobody is there who sends it
    stored = await row(email_id)
    assert (stored['status'], stored['max_attempts'], stored['lost_attempts']) == ('pending', 6, 0)
    assert await pool.fetchval(
        'SELECT next_retry_at <= now() AND expires_at > now() FROM outbound_emails'
    )
    await process_pending_emails(ctx)
    assert (await row(email_id))['status'] == 'sent'
    assert len(inbox.accepted('released@example.com')) == 1


async def test_cancelled_mail_is_not_sent_and_retry_takes_it_back(env, pool):
    email_id = await hold(pool)
    given = await run(env, 'held', 'cancel', str(email_id), '--yes')
    assert (given.exit_status, given.document['changed']) == (0, 1)
    assert await statuses(pool) == {email_id: 'cancelled'}
    await run(env, 'retry', str(email_id), '--yes')
    assert await statuses(pool) == {email_id: 'pending'}


@pytest.mark.parametrize(('action', 'state'), [('release', 'pending'), ('cancel', 'cancelled')])
async def test_all_are_changed_in_batches_and_nothing_else(
    env, pool, action: str, state: str, monkeypatch
):
    monkeypatch.setattr('actions.emails.BATCH', 7)
    kept = {
        await insert(pool, status=status, **columns): status
        for status, columns in {
            'sent': {'sent_at': ago(1)}, 'failed': {'attempts': 5}, 'uncertain': {'attempts': 1},
            'expired': {},
            'cancelled': {}, 'external': {}, 'sending': {},
        }.items()
    }  # fmt: skip
    ids = [await hold(pool) for _ in range(30)]
    assert (await run(env, 'held', action, '--all', '--dry-run')).document['matched'] == 30
    assert 'held' in (await statuses(pool)).values()
    given = await run(env, 'held', action, '--all', '--yes')
    assert (given.document['matched'], given.document['changed']) == (30, 30)
    assert await statuses(pool) == dict.fromkeys(ids, state) | kept
    assert (await run(env, 'held', action, '--all', '--yes')).document['changed'] == 0


async def test_conditions_narrow_down_what_is_changed(env, pool):
    old, young = await hold(pool, 40, email_type='news'), await hold(pool, 2, email_type='news')
    other = await hold(pool, 40, email_type='reset')
    given = await run(env, 'held', 'cancel', '--type', 'news', '--until', '7d', '--yes')
    assert given.document['changed'] == 1
    assert await statuses(pool) == {old: 'cancelled', young: 'held', other: 'held'}


async def test_what_is_not_held_is_left_alone_with_the_reason(env, pool):
    dead = await insert(pool, status='failed', attempts=5)
    external = await insert(pool, status='external')
    given = await run(env, 'held', 'release', str(dead), str(external), '404', '--yes')
    assert (given.exit_status, given.document['changed']) == (1, 0)
    assert [entry['reason'] for entry in given.document['unchanged']] == [
        f'it is not held, but failed: see `python -m ops explain {dead}`',
        'the system that was there before sends it, or has sent it',
        'there is no such e-mail',
    ]
    assert await statuses(pool) == {dead: 'failed', external: 'external'}


@pytest.mark.parametrize(
    'arguments', [(), ('1', '--all'), ('--all', '--type', 'news'), ('1', '--type', 'news')]
)
async def test_a_decision_is_about_ids_or_all_or_conditions(env, pool, arguments: tuple[str, ...]):
    await hold(pool)
    for action in ('release', 'cancel'):
        assert (await run(env, 'held', action, *arguments, '--yes')).exit_status == 2
    assert set((await statuses(pool)).values()) == {'held'}


async def test_decisions_ask_first(env, pool, monkeypatch, capsys):
    email_id = await hold(pool)
    finished = await ops(env, 'held', 'release', '--all')
    assert (finished.status, 'there is no terminal to ask at' in finished.err) == (2, True)
    for answer, state in (('n', 'held'), ('y', 'pending')):
        monkeypatch.setattr(sys, 'stdin', Typed(f'{answer}\n'))
        await run(env, 'held', 'release', str(email_id))
        assert 'Send 1 held e-mail? [y/N]' in capsys.readouterr().err
        assert await statuses(pool) == {email_id: state}


@pytest.mark.parametrize('status', ['held', 'external'])
async def test_no_job_and_no_duty_touches_held_and_external_mail(ctx, pool, row, status: str):
    email_id = await hold(pool, 400, status=status, expires_at=ago(390), updated_at=ago(400))
    before = await row(email_id)
    assert await pool.fetch(EXPIRABLE_SQL, 10) == []
    for job in (send_email, retry_failed_email):
        result = await job(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', status)
    await process_pending_emails(ctx)
    done = await cleanup_expired_emails(ctx)
    assert (done['expired'], done['removed']) == (0, 0)
    assert await row(email_id) == before


@pytest.mark.parametrize(
    ('status', 'told'),
    [
        ('held', 'ops held release {id}` sends it'),
        ('external', 'the system that was there before sends it'),
    ],
)
async def test_retry_and_resolve_refuse_and_say_what_to_do(env, pool, status: str, told: str):
    email_id = await hold(pool, status=status)
    for command in (
        ('retry', str(email_id), '--yes'),
        ('resolve', str(email_id), '--as', 'sent', '--yes'),
    ):
        given = await run(env, *command)
        assert given.exit_status == 1
        assert told.format(id=email_id) in given.document['unchanged'][0]['reason']
    assert await statuses(pool) == {email_id: status}


async def test_show_and_explain_say_who_must_do_something(env, pool):
    held, external = await hold(pool), await insert(pool, status='external')
    for command in ('show', 'explain'):
        given = await run(env, command, str(held))
        assert f'It waits for you: `python -m ops held release {held}`' in given.document['next']
        given = await run(env, command, str(external))
        assert given.document['next'].startswith(
            'Nothing here: the system that was there before sends it'
        )
    because = (await run(env, 'explain', str(held))).document['because']
    assert because[0]['remedy'] == f'`python -m ops held release {held}`, or `held cancel`.'


async def test_status_and_doctor_count_what_waits_for_a_decision_and_tell_held_from_uncertain(
    env, pool
):
    await hold(pool)
    await insert(pool, status='uncertain', attempts=1)
    await insert(pool, status='external')
    assert (await run(env, 'status')).document['outbox']['held'] == 2
    whats = {row['what'] for row in (await run(env, 'doctor', 'outbox')).document['findings']}
    assert whats == {
        '1 e-mail is held: nobody sends them before you decide',
        '1 e-mail may have been delivered or not',
    }


async def test_purge_cancels_held_mail_when_it_is_asked_for(env, pool):
    email_id, pending = await hold(pool), await insert(pool)
    await run(env, 'purge', 'outbox', '--status', 'pending', '--yes')
    assert await statuses(pool) == {email_id: 'held', pending: 'cancelled'}
    await run(env, 'purge', 'outbox', '--status', 'held', '--yes')
    assert await statuses(pool) == {email_id: 'cancelled', pending: 'cancelled'}


async def test_the_count_of_held_mail_reads_no_other_row(pool):
    await pool.execute(
        "INSERT INTO outbound_emails (recipient, status, sent_at) SELECT 'a', 'sent', now() "
        'FROM generate_series(1, 2000)'
    )
    await pool.execute('ANALYZE outbound_emails')
    plan = '\n'.join(row[0] for row in await pool.fetch(f'EXPLAIN {COUNT_ALL_HELD_SQL}'))
    assert 'outbound_emails_held' in plan, plan
