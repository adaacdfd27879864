"""The job cut off: by a shutdown, by a fault of its own, by PostgreSQL, by the end of its lease."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from arq import Retry

import delivery.content
import delivery.record
import jobs.send_email
from db import claims, results
from db.late import TAKEN_BACK, record_late
from db.leases import rescue
from db.results import Result
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_claimed, send_email
from mail.outcome import Decision, Delivery, Outcome, Phase, Reply, Status
from mail.progress import Progress
from tests.conftest import wait_until
from tests.services.other_worker import another
from tests.services.test_rows_that_break import REFUSE

MAKE_DUE = 'UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1'
END_SESSIONS = (
    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
    'WHERE datname = current_database() AND pid <> pg_backend_pid()'
)


@pytest.fixture
def progresses(monkeypatch) -> list[Progress]:
    """How far every attempt has come."""
    seen: list[Progress] = []

    def watched(**options: Any) -> Progress:
        seen.append(Progress(**options))
        return seen[-1]

    monkeypatch.setattr(jobs.send_email, 'Progress', watched)
    return seen


@pytest.fixture
def failing_record(monkeypatch) -> Callable[[list[BaseException]], None]:
    """Make results.record raise these errors, one a call, before it works again."""

    def fail_with(errors: list[BaseException]) -> None:
        record = results.record

        async def fail(*args: Any, **kwargs: Any) -> Any:
            if errors:
                raise errors.pop(0)
            return await record(*args, **kwargs)

        monkeypatch.setattr(results, 'record', fail)
        monkeypatch.setattr(delivery.record, 'RECORD_RETRY_S', 0.01)

    return fail_with


async def attempts_of(pool: Any) -> list[tuple[str, str]]:
    return [
        tuple(row)
        for row in await pool.fetch('SELECT outcome, phase FROM email_attempts ORDER BY started_at')
    ]


async def test_unexpected_error_is_recorded_and_retried_like_any_failure(
    ctx, pool, queue, row, monkeypatch
):
    def explode(*_: Any) -> None:
        raise ZeroDivisionError('a fault of the program')

    email_id = await queue()
    with monkeypatch.context() as patched:
        patched.setattr(delivery.content, 'render', explode)
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'failed',
            'attempts': 1,
        }
    stored = await row(email_id)
    assert stored['last_error'] == 'ZeroDivisionError: a fault of the program'
    assert stored['next_retry_at'] is not None
    assert await attempts_of(pool) == [('deferred', 'render')]
    assert ctx['runtime'].claimer.leases.held() == []
    await pool.execute(MAKE_DUE, email_id)
    assert (await send_email(ctx, email_id))['status'] == 'sent'


async def test_cancellation_in_the_dialogue_releases_at_once(
    ctx, pool, queue, row, inbox, progresses
):
    email_id = await queue('cut+stall-rcpt@example.com')
    task = asyncio.create_task(send_email(ctx, email_id))
    await wait_until(lambda: progresses and progresses[0].phase is Phase.RCPT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = await row(email_id)
    assert (stored['status'], stored['attempts'], stored['claim_token']) == ('pending', 0, None)
    assert stored['next_retry_at'] <= await pool.fetchval('SELECT now()')
    assert await attempts_of(pool) == [('released', 'rcpt')]
    assert inbox.accepted() == []
    assert ctx['runtime'].claimer.leases.held() == []


async def test_cancellation_after_the_dot_is_uncertain(ctx, pool, queue, row, progresses):
    email_id = await queue('cut+stall-dot@example.com')
    task = asyncio.create_task(send_email(ctx, email_id))
    await wait_until(lambda: progresses and progresses[0].phase is Phase.BODY_SENT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = await row(email_id)
    assert (stored['status'], stored['attempts']) == ('uncertain', 1)
    assert stored['next_retry_at'] is not None
    assert await attempts_of(pool) == [('uncertain', 'body-sent')]


async def test_cancellation_at_the_second_relay_keeps_what_the_first_accepted(
    ctx, pool, queue, row, inbox, progresses
):
    at_primary, at_backup = 'first-copy@example.com', 'second+4xx-twice@example.com'
    email_id = await queue(f'{at_primary}, {at_backup}')
    inbox.control.misbehave('rcpt', 'stall', relay='backup')
    task = asyncio.create_task(send_email(ctx, email_id))
    await wait_until(
        lambda: progresses and (progresses[0].relay, progresses[0].phase) == ('backup', Phase.RCPT)
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    inbox.control.behave()
    while (await row(email_id))['status'] != 'sent':
        await pool.execute(MAKE_DUE, email_id)
        await send_email(ctx, email_id)
    assert len(inbox.accepted(at_backup)) == 1
    assert len(inbox.accepted(at_primary)) == 1


async def test_cancellation_while_the_acceptance_is_recorded_does_not_forget_it(
    ctx, pool, queue, row, inbox, monkeypatch
):
    record, asked, let_go = results.record, asyncio.Event(), asyncio.Event()

    async def record_slowly(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        await let_go.wait()
        return await record(*args, **kwargs)

    monkeypatch.setattr(results, 'record', record_slowly)
    email_id = await queue('recording@example.com')
    task = asyncio.create_task(send_email(ctx, email_id))
    await asked.wait()
    task.cancel()
    await asyncio.wait([task], timeout=0.05)  # a job that gives up does so now
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def is_sent() -> bool:
        return (await row(email_id))['status'] == 'sent'

    await wait_until(is_sent)
    assert len(inbox.accepted('recording@example.com')) == 1


async def test_cancelling_twice_does_not_forget_the_acceptance(
    ctx, pool, queue, inbox, monkeypatch
):
    record = ctx['runtime'].recorder.batched
    ask, asked = record.ask, []

    def ask_and_be_cancelled(result: Any) -> Any:
        asked.append(result)
        task.cancel()
        return ask(result)

    monkeypatch.setattr(record, 'ask', ask_and_be_cancelled)
    email_id = await queue('twice@example.com')
    task = asyncio.create_task(send_email(ctx, email_id))
    with pytest.raises(asyncio.CancelledError):
        await task

    async def is_recorded() -> bool:
        return await attempts_of(pool) == [('accepted', 'replied')]

    await wait_until(is_recorded)
    assert len(asked) == 2
    assert len(inbox.accepted('twice@example.com')) == 1


async def test_stop_does_not_wait_without_end_for_postgresql(
    ctx, queue, row, monkeypatch, progresses, failing_record
):
    failing_record([ConnectionRefusedError('away')] * 1000)
    monkeypatch.setattr(delivery.record, 'LAST_RECORD_S', 0.05)
    email_id = await queue('stop+stall-rcpt@example.com')
    task = asyncio.create_task(send_email(ctx, email_id))
    await wait_until(lambda: progresses and progresses[0].phase is Phase.RCPT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await row(email_id))['status'] == 'sending'  # the rescue's, when the lease is over


AWAY = [
    ConnectionRefusedError('refused'),
    TimeoutError(),
    asyncpg.CannotConnectNowError('the database system is starting up'),
    asyncpg.AdminShutdownError('terminating connection due to administrator command'),
    asyncpg.ConnectionDoesNotExistError('connection was closed in the middle of operation'),
    asyncpg.InterfaceError('connection is closed'),
    asyncpg.TooManyConnectionsError('sorry, too many clients already'),
    asyncpg.DiskFullError('could not extend file'),
    asyncpg.ReadOnlySQLTransactionError('cannot execute UPDATE in a read-only transaction'),
]


async def test_acceptance_is_recorded_once_postgresql_is_back(
    ctx, queue, row, inbox, failing_record
):
    for error in AWAY:
        failing_record([error, error])
        recipient = f'{type(error).__name__}@example.com'
        email_id = await queue(recipient)
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'sent',
            'attempts': 1,
        }
        assert (await row(email_id))['status'] == 'sent'
        assert len(inbox.accepted(recipient)) == 1


@pytest.mark.parametrize(
    'error',
    [
        # What asyncpg says when a session was ended while its connection lay in the pool.
        asyncpg.InternalClientError(
            'cannot switch to state 11; another operation (2) is in progress'
        ),
        asyncpg.DeadlockDetectedError('deadlock detected'),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_acceptance_is_recorded_after_an_error_that_passes(
    ctx, queue, row, inbox, failing_record, error
):
    failing_record([error])
    email_id = await queue('passes@example.com')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    assert (await row(email_id))['status'] == 'sent'
    assert len(inbox.accepted('passes@example.com')) == 1


async def test_record_whose_answer_was_lost_is_not_taken_for_a_lost_lease(
    ctx, pool, queue, row, monkeypatch
):
    record, answers = results.record, []

    async def record_and_lose_the_answer(*args: Any, **kwargs: Any) -> Any:
        answers.append(await record(*args, **kwargs))
        if len(answers) == 1:
            raise ConnectionResetError('after the commit')
        return answers[-1]

    monkeypatch.setattr(results, 'record', record_and_lose_the_answer)
    monkeypatch.setattr(delivery.record, 'RECORD_RETRY_S', 0.01)
    email_id = await queue()
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    assert [len(answer) for answer in answers] == [1, 0]
    assert await attempts_of(pool) == [('accepted', 'replied')]


async def test_job_that_cannot_claim_for_want_of_postgresql_is_run_again(
    ctx, queue, row, monkeypatch
):
    async def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError('PostgreSQL is away')

    email_id = await queue()
    before = await row(email_id)
    with monkeypatch.context() as patched:
        patched.setattr(claims, 'claim', refuse)
        with pytest.raises(Retry):
            await send_email(ctx, email_id)
    assert await row(email_id) == before
    assert (await send_email(ctx, email_id))['status'] == 'sent'


async def test_sessions_ended_between_acceptance_and_record_lose_nothing(
    ctx, queue, row, inbox, database, monkeypatch
):
    admin = await asyncpg.connect(database.dsn)
    record, ended = results.record, set()

    async def end_then_record(pool: Any, results: Any, **kwargs: Any) -> Any:
        email_id = results[0].claim.email.id
        if email_id not in ended:
            ended.add(email_id)
            assert await admin.fetch(END_SESSIONS)
        return await record(pool, results, **kwargs)

    monkeypatch.setattr(results, 'record', end_then_record)
    monkeypatch.setattr(delivery.record, 'RECORD_RETRY_S', 0.01)
    for n in range(5):  # which error it is depends on what has reached the client
        email_id = await queue(f'ended{n}@example.com')
        assert (await send_email(ctx, email_id))['status'] == 'sent'
        assert (await row(email_id))['status'] == 'sent'
        assert len(inbox.accepted(f'ended{n}@example.com')) == 1
    await admin.close()


async def test_lease_that_is_over_before_data_sends_nothing_and_is_given_back(
    ctx, pool, queue, row, inbox
):
    runtime = another(ctx['runtime'], lease_s=0.2)
    email_id = await queue('too-late@example.com')
    assert await send_email({'runtime': runtime}, email_id) == {
        'email_id': email_id,
        'status': 'pending',
        'attempts': 0,
    }
    assert runtime.claimer.leases.held() == []
    stored = await row(email_id)
    assert (stored['status'], stored['claim_token'], stored['lost_attempts']) == (
        'pending',
        None,
        0,
    )
    assert 'the lease of e-mail' in stored['last_error']
    assert [outcome for outcome, _ in await attempts_of(pool)] == ['released']
    assert inbox.accepted() == []


async def test_lease_that_a_renewal_found_lost_sends_nothing_and_tells_so(
    ctx, pool, queue, row, inbox
):
    runtime = ctx['runtime']
    email_id = await queue('taken@example.com')
    claim = await runtime.claimer.claim_one(email_id)
    await pool.execute("UPDATE outbound_emails SET status = 'cancelled'")
    runtime.claimer.leases.renewed([claim.key], {claim.key}, 0.0)
    assert (await send_claimed(runtime.steps, claim))['status'] == 'lease-lost'
    assert runtime.activity.outcomes['lease-lost'] == 1
    assert inbox.accepted() == []
    assert (await row(email_id))['status'] == 'cancelled'
    [attempt] = await pool.fetch('SELECT * FROM email_attempts')
    assert attempt['outcome'] == 'released'
    assert attempt['error'].endswith(TAKEN_BACK)


TAKING_BACK = {
    'rescued': "UPDATE outbound_emails SET lease_expires_at = now() - interval '1 second'",
    'set to pending': "UPDATE outbound_emails SET status = 'pending', next_retry_at = now()",
    'cancelled': "UPDATE outbound_emails SET status = 'cancelled'",
    'deleted': 'DELETE FROM outbound_emails',
}


@pytest.mark.parametrize('way', TAKING_BACK)
async def test_acceptance_is_on_record_whatever_became_of_the_row(ctx, pool, queue, inbox, way):
    runtime = ctx['runtime']
    email_id = await queue(f'{way.replace(" ", "-")}@example.com')
    claim = await runtime.claimer.claim_one(email_id)
    await pool.execute(TAKING_BACK[way])
    assert len(await rescue(pool, [])) == (way == 'rescued')
    told = await send_claimed(runtime.steps, claim)
    [attempt] = await pool.fetch('SELECT * FROM email_attempts')
    assert (attempt['outcome'], attempt['started_at'], attempt['smtp_code']) == (
        'accepted',
        claim.claimed_at,
        250,
    )
    status = await pool.fetchval('SELECT status FROM outbound_emails')
    if way in (
        'rescued',
        'set to pending',
    ):  # nobody has it yet: sending it again would make a copy
        assert (told['status'], status, attempt['error']) == ('sent', 'sent', None)
        await process_pending_emails(ctx)
    else:
        assert (told['status'], status) == ('lease-lost', None if way == 'deleted' else 'cancelled')
        assert attempt['error'] == TAKEN_BACK
    assert len(inbox.accepted(f'{way.replace(" ", "-")}@example.com')) == 1
    assert runtime.claimer.leases.held() == []


async def test_acceptance_of_mail_that_somebody_else_is_sending_leaves_the_row_to_him(
    ctx, pool, queue, row
):
    runtime = ctx['runtime']
    email_id = await queue('twice-held@example.com')
    claim = await runtime.claimer.claim_one(email_id)
    await pool.execute("UPDATE outbound_emails SET status = 'pending', next_retry_at = now()")
    other = await runtime.claimer.claim_one(email_id)
    before = await row(email_id)
    assert await send_claimed(runtime.steps, claim) == {
        'email_id': email_id,
        'status': 'lease-lost',
        'attempts': 1,
    }
    assert await row(email_id) == before
    assert (await send_claimed(runtime.steps, other))['status'] == 'sent'
    told = await pool.fetch('SELECT outcome, error FROM email_attempts ORDER BY started_at')
    assert [tuple(attempt) for attempt in told] == [('accepted', TAKEN_BACK), ('accepted', None)]


async def test_result_that_comes_after_the_rescue_says_what_the_rescue_could_not_know(
    ctx, pool, queue, row
):
    email_id = await queue('late+5xx-rcpt@example.com')
    claim = await ctx['runtime'].claimer.claim_one(email_id)
    await pool.execute(TAKING_BACK['rescued'])
    await rescue(pool, [])
    assert [outcome for outcome, _ in await attempts_of(pool)] == ['lost']
    assert (await send_claimed(ctx['runtime'].steps, claim))['status'] == 'failed'
    stored = await row(email_id)
    assert (stored['status'], stored['dead_reason'], stored['lost_attempts']) == (
        'failed',
        'rejected',
        0,
    )
    assert [outcome for outcome, _ in await attempts_of(pool)] == ['rejected']


async def test_late_result_that_is_recorded_twice_stands_once(ctx, pool, queue, row):
    runtime = ctx['runtime']
    email_id = await queue()
    claim = await runtime.claimer.claim_one(email_id)
    await pool.execute("UPDATE outbound_emails SET status = 'cancelled'")
    delivery = Delivery(Outcome.ACCEPTED, Phase.REPLIED, 'primary', Reply(250, 'ok'))
    result = Result(claim, delivery, Decision(Status.SENT), 0.1)
    for _ in range(2):
        assert await record_late(pool, [result], worker='w') == set()
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 1
    assert await pool.fetchval('SELECT error FROM email_attempts') == TAKEN_BACK


@pytest.mark.parametrize(
    ('refused', 'ends_as'),
    [("NEW.status = 'sent'", 'uncertain'), ("OLD.status = 'sending'", 'sending')],
    ids=['only as sent', 'altogether'],
)
async def test_acceptance_that_its_row_refuses_is_on_record_and_is_not_sent_again(
    ctx, pool, queue, row, inbox, refused, ends_as
):
    others = [await queue('other@example.com') for _ in range(3)]
    email_id = await queue('refused@example.com')
    await pool.execute(
        REFUSE.format(f"IF NEW.id = {email_id} AND {refused} THEN RAISE 'not this row'; END IF;")
    )
    await process_pending_emails(ctx)
    assert [(await row(i))['status'] for i in others] == ['sent'] * 3
    stored = await row(email_id)
    assert stored['status'] == ends_as
    [attempt] = await pool.fetch(
        'SELECT outcome, error FROM email_attempts WHERE email_id = $1', email_id
    )
    assert attempt['outcome'] == 'accepted'
    assert 'not this row' in attempt['error']
    if ends_as == 'sending':
        await pool.execute('DROP TRIGGER refuse ON outbound_emails')
        await pool.execute(TAKING_BACK['rescued'])
        await rescue(pool, [])
        assert (await row(email_id))['status'] == 'sent'
    else:
        assert (stored['dead_reason'], stored['next_retry_at']) == ('refused', None)
        assert 'not this row' in stored['last_error']
    assert len(inbox.accepted('refused@example.com')) == 1
