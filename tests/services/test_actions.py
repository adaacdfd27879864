"""Operators' actions as a page or an API calls them: one typed call, no screen."""

import pytest

from actions.call import JobCall, call_job, run_duty
from actions.held import HeldDecision, decide_held_selected
from actions.purge import cancel_emails
from actions.resolve import resolve_emails
from actions.retry import RetryTerms, retry_ids, retry_selected
from actions.safety import MoreThanExpectedError, RequestError
from actions.suppress import suppress_addresses, unsuppress_addresses
from actions.switch import UnknownNameError, pause_switch, resume_switch
from db.switches import SwitchKind
from reporting.mail_filter import MailFilter
from reporting.problems import NO_WORKER, ProblemError
from reporting.servers import ServerAddresses, Servers
from tests.services.ops_desk import closed_port, insert, statuses

TERMS = RetryTerms(expiry_hours=24.0, queue='arq:queue')
ALL = MailFilter()


@pytest.fixture
async def servers(env):
    asked = Servers(
        ServerAddresses(
            env['DATABASE_URL'], env['ARQ_REDIS_URL'], env['MONGODB_URL'], env['MONGODB_DATABASE']
        )
    )
    yield asked
    await asked.close()


class StopError(Exception):
    """The answer to the question was no."""


def refuse(_plan):
    raise StopError


async def test_retry_is_one_call(servers, pool, redis):
    failed = await insert(pool, status='failed', attempts=5, dead_reason='rejected')
    sent = await insert(pool, status='sent', sent_at='sql:now()')
    done = await retry_ids(servers, [failed, sent, 404], TERMS)
    assert (done.retried, done.enqueued) == ([failed], 1)
    assert [(left.id, left.reason[:12]) for left in done.unchanged] == [
        (sent, 'it was sent '),
        (404, 'there is no '),
    ]
    assert [problem.exit_status for problem in done.problems] == [NO_WORKER]
    assert await statuses(pool) == {failed: 'pending', sent: 'sent'}
    assert await redis.zcard('arq:queue') == 1


async def test_a_plan_that_is_refused_changes_nothing(servers, pool, redis):
    failed = await insert(pool, status='failed', attempts=5)
    uncertain = await insert(pool, status='uncertain', attempts=1)
    held = await insert(pool, status='held')
    before = await statuses(pool)
    await redis.enqueue_job('send_email', failed)
    for doing in (
        retry_ids(servers, [failed], TERMS, confirm=refuse),
        retry_selected(servers, 'failed', ALL, TERMS, limit=10, confirm=refuse),
        resolve_emails(servers, [uncertain], 'sent', confirm=refuse),
        decide_held_selected(servers, ALL, HeldDecision.CANCEL, expiry_hours=1, confirm=refuse),
        cancel_emails(servers, 'held', ALL, confirm=refuse),
        suppress_addresses(servers, ['anna@example.com'], 'left', confirm=refuse),
        pause_switch(servers, SwitchKind.QUEUE, 'arq:queue', by='anna', confirm=refuse),
        call_job(servers, JobCall('process_pending_emails', 'arq:queue'), confirm=refuse),
    ):
        with pytest.raises(StopError):
            await doing
    assert await statuses(pool) == before
    assert held in before
    assert await redis.zcard('arq:queue') == 1
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 0


async def test_no_more_is_changed_than_was_shown(servers, pool):
    for _ in range(3):
        await insert(pool, status='failed', attempts=5)
        await insert(pool, status='held')
    before = await statuses(pool)
    for doing in (
        retry_selected(servers, 'failed', ALL, TERMS, limit=10, expected=2),
        decide_held_selected(servers, ALL, HeldDecision.RELEASE, expiry_hours=1, expected=2),
        cancel_emails(servers, 'held', ALL, expected=2),
    ):
        with pytest.raises(MoreThanExpectedError, match='3 e-mails fit now, not 2'):
            await doing
    assert await statuses(pool) == before
    done = await retry_selected(servers, 'failed', ALL, TERMS, limit=10, expected=3)
    assert (len(done.retried), done.left, done.passed_over) == (3, 0, 0)


async def test_what_is_held_while_the_question_stands_stays_held(servers, pool):
    shown = await insert(pool, status='held')
    pending = await insert(pool)

    def hold_another(plan):
        assert plan.emails == 1
        asking.append(servers.ask_postgres(lambda p: p.execute(
            "UPDATE outbound_emails SET status = 'held' WHERE id = $1", pending)))  # fmt: skip

    asking = []
    counting = servers.ask_postgres

    async def ask_in_order(question):
        servers.ask_postgres = counting
        while asking:
            await asking.pop()
        servers.ask_postgres = ask_in_order
        return await counting(question)

    servers.ask_postgres = ask_in_order
    with pytest.raises(MoreThanExpectedError):
        await decide_held_selected(
            servers, ALL, HeldDecision.RELEASE, expiry_hours=1, confirm=hold_another
        )
    assert await statuses(pool) == {shown: 'held', pending: 'held'}


async def test_dry_runs_change_nothing_and_say_what_would_be_done(servers, pool):
    failed = await insert(pool, status='failed', attempts=5)
    await pause_switch(servers, SwitchKind.EMAIL_TYPE, 'news', by='anna', force=True)
    would = await retry_ids(servers, [failed], TERMS, dry_run=True, confirm=refuse)
    assert (would.dry_run, would.retried) == (True, [failed])
    resumed = await resume_switch(
        servers, SwitchKind.EMAIL_TYPE, 'news', dry_run=True, confirm=refuse
    )
    assert (resumed.changed, resumed.already) == (False, False)
    assert await statuses(pool) == {failed: 'failed'}
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 1


async def test_suppressions_come_and_go(servers):
    added = await suppress_addresses(servers, ['a@x.de', '@y.de', 'a@x.de'], 'left', for_s=60)
    assert (list(added.added), added.expires_at is not None) == (['a@x.de', '@y.de'], True)
    again = await suppress_addresses(servers, ['a@x.de'], 'moved')
    assert (list(again.added), list(again.changed), again.expires_at) == ([], ['a@x.de'], None)
    gone = await unsuppress_addresses(servers, ['a@x.de', 'b@x.de'])
    assert (list(gone.removed), list(gone.missing)) == (['a@x.de'], ['b@x.de'])


@pytest.mark.parametrize(
    ('call', 'what'),
    [
        (JobCall('send_mail', 'arq:queue', [1]), "'send_mail' is no job of our workers"),
        (JobCall('send_email', 'arq:queue'), 'send_email takes 1 argument, not 0'),
        (JobCall('send_email', 'arq:queue', ['1']), "'1' is no id of an e-mail"),
        (JobCall('send_email', 'arq:queue', [True]), 'True is no id of an e-mail'),
        (JobCall('other', 'theirs', ['x' * 10**7]), 'the arguments are too long'),
    ],
)
async def test_a_job_that_nobody_can_run_is_refused(servers, redis, call, what):
    with pytest.raises(RequestError, match=what):
        await call_job(servers, call)
    assert await redis.keys('*') == []


async def test_unknown_names_are_refused_with_the_known_ones(servers):
    with pytest.raises(UnknownNameError, match='known: arq:queue, high_priority, low_priority'):
        await pause_switch(servers, SwitchKind.QUEUE, 'arq:qeue', by='anna')
    with pytest.raises(UnknownNameError, match="no duty 'x' is there to run"):
        await run_duty(servers, 'x')


async def test_a_server_that_does_not_answer_is_a_typed_error_without_its_password():
    port = closed_port()
    servers = Servers(
        ServerAddresses(f'postgresql://mail:geheim@127.0.0.1:{port}/mail', 'redis://127.0.0.1:1/1')
    )
    assert 'geheim' not in repr(servers.addresses)
    with pytest.raises(ProblemError) as failure:
        await retry_ids(servers, [1], TERMS)
    assert (failure.value.problem.service, failure.value.problem.place) == (
        'PostgreSQL',
        f'127.0.0.1:{port}/mail',
    )
    assert 'geheim' not in str(failure.value)
    await servers.close()
