"""Status, page, metrics and doctor say the same of the same fleet.

None is content where another is not.
"""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from reporting.checks.finding import LEVELS
from reporting.kinds import KINDS
from reporting.problems import Level
from reporting.servers import ServerAddresses
from tests.services.api_desk import api_for
from tests.services.ops_desk import insert, ops, run
from tests.services.test_ops_status import AN_HOUR_AGO, IN_AN_HOUR, register
from tests.services.test_web_crowded import watching
from web.application import make_application

READY = {'name': 'primary', 'state': 'ready'}
COOLING = {'name': 'backup', 'state': 'cooling down', 'last_error': 'no anna@example.com here'}
PAUSED = {'kind': 'email_type', 'name': 'news'}


async def pause(pool, kind, name):
    await pool.execute(
        "INSERT INTO mail_switches (kind, name, paused_by) VALUES ($1, $2, 'ops')", kind, name
    )


async def dead(pool):
    for _ in range(36):
        await insert(pool, status='failed', attempts=1)


async def held(pool):
    await insert(pool, status='uncertain', attempts=1)


async def past_expiry(pool):
    await insert(pool, next_retry_at=AN_HOUR_AGO, expires_at=AN_HOUR_AGO)


async def due_in_a_paused_type(pool):
    await pause(pool, 'email_type', 'news')
    for time in (AN_HOUR_AGO, AN_HOUR_AGO, IN_AN_HOUR):
        await insert(pool, email_type='news', next_retry_at=time)
    await insert(pool, email_type='news', created_at=AN_HOUR_AGO)  # without a time


async def late_beside_a_paused_type(pool):
    await due_in_a_paused_type(pool)
    await insert(pool, next_retry_at=AN_HOUR_AGO)


async def paused_relay(pool):
    await pause(pool, 'relay', 'primary')


async def paused_duty(pool):
    await pause(pool, 'cron', 'cleanup_old_sessions')


async def late_duty(pool):
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, started_at, lease_expires_at, finished_at, '
        'outcome) VALUES '
        "('cleanup_expired_emails', now() - interval '5 hours', 'w', now() - interval '5 hours', "
        "now(), now(), 'done')"
    )


async def poisoned(pool):
    await insert(pool, status='failed', attempts=3, dead_reason='poison')


async def mostly_deferred(pool):
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) '
        "SELECT n, now(), 1, 'w', 'deferred', 'rcpt' FROM generate_series(1, 30) AS n"
    )


async def stuck(pool):
    await insert(pool, status='sending', lease_expires_at=AN_HOUR_AGO)


async def webhook(pool, **columns):
    values = {'url': 'https://shop.example/hook?key=secret', 'secret': 'x', 'created_by': 'ops'}
    values |= columns
    names = ', '.join(values)
    marks = ', '.join(f'${n}' for n in range(1, len(values) + 1))
    await pool.execute(f'INSERT INTO mail_webhooks ({names}) VALUES ({marks})', *values.values())


async def failing_webhook(pool):
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    await webhook(pool, failures=4, failing_since=hour_ago, last_error='no anna@example.com here')


async def webhook_that_gave_up(pool):
    await webhook(pool, given_up=3, given_up_at=datetime.now(UTC))


async def disabled_webhook(pool):
    await webhook(pool, enabled=False, disabled_reason='it answered 410 Gone')


BULK = {'name': 'bulk', 'match': '{}', 'chain': '[{"backup": 1.0}]'}
EITHER = {'name': 'rest', 'match': '{}', 'chain': '[{"backup": 1.0}, {"primary": 1.0}]'}

FLEETS = [
    (dead, {}, {'dead'}, Level.LOOK),
    (held, {}, {'undecided'}, Level.LOOK),
    (past_expiry, {}, {'past_expiry'}, Level.LOOK),
    (due_in_a_paused_type, {}, {'due_in_paused_type', 'paused_type'}, Level.LOOK),
    (late_beside_a_paused_type, {}, {'due_in_paused_type', 'paused_type', 'late'}, Level.ACT),
    (paused_relay, {}, {'paused_relay'}, Level.LOOK),
    (paused_duty, {}, {'paused_duty'}, Level.LOOK),
    (late_duty, {}, {'duty_late'}, Level.ACT),
    (poisoned, {}, {'poisoned', 'dead'}, Level.LOOK),
    (mostly_deferred, {}, {'failing'}, Level.ACT),
    (stuck, {}, {'stuck'}, Level.ACT),
    (None, {'relays': [READY, COOLING]}, {'relay_cooling'}, Level.LOOK),
    (None, {'relays': [COOLING]}, {'relay_cooling', 'no_relay'}, Level.ACT),
    (
        None,
        {'relays': [READY, COOLING], 'routes': [BULK, EITHER]},
        {'relay_cooling', 'no_route'},
        Level.ACT,
    ),
    (None, {'relays': [READY], 'routes': [{'name': 7}, EITHER]}, set(), Level.OK),
    (failing_webhook, {}, {'webhook_failing'}, Level.LOOK),
    (webhook_that_gave_up, {}, {'webhook_gave_up'}, Level.ACT),
    (disabled_webhook, {}, {'webhook_disabled'}, Level.LOOK),
    (None, {'relays': [READY | {'state': 'paused'}]}, {'no_relay'}, Level.ACT),
    (None, {'relays': [{'name': 7, 'state': []}, {}]}, set(), Level.OK),
    (None, {'state': 'paused', 'paused': ['by hand']}, {'all_paused'}, Level.LOOK),
    (None, {'loop_lag_ms': 900.0}, {'hanging_worker'}, Level.LOOK),
    (None, {'log_lines_dropped': 7}, {'lost_log_lines'}, Level.LOOK),
    (None, {}, set(), Level.OK),
]


async def look_at_page(env):
    places = {'postgres_dsn': env['DATABASE_URL'], 'redis_url': env['ARQ_REDIS_URL']}
    async with watching(**places) as watch:
        api = api_for(ServerAddresses(**places))
        app = make_application(watch, watch, token=None, loopback_only=True, api=api)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url='http://localhost'
        ) as client:
            return [(await client.get(path)).text for path in ('/', '/api/status', '/metrics')]


@pytest.mark.parametrize(
    ('rows', 'worker', 'kinds', 'level'),
    FLEETS,
    ids=[f'{i}-{"-".join(sorted(f[2]))}' for i, f in enumerate(FLEETS)],
)
async def test_status_page_metrics_and_doctor_find_the_same(
    env, pool, redis, rows, worker, kinds, level
):
    await register(redis, **worker)
    if rows:
        await rows(pool)
    given = await run(env, 'status', '-t', '0.1')
    assert {problem.kind for problem in given.problems} == kinds
    assert (given.document['level'], given.exit_status) == (level, 1 if level is Level.ACT else 0)
    page, status, metrics = await look_at_page(env)
    assert ('Nothing is wrong' in page) == (level is Level.OK)
    assert 'anna' not in page
    assert (page.count('<li class="act">'), page.count('<li class="look">')) == (
        sum(problem.level is Level.ACT for problem in given.problems),
        sum(problem.level is Level.LOOK for problem in given.problems),
    )
    told = json.loads(status)
    assert told['level'] == level
    assert {problem['kind'] for problem in told['troubles']} == kinds
    for name, kind in KINDS.items():
        there = f'email_findings{{kind="{name}",level="{kind.level}"}} 0.0' not in metrics
        assert there == (name in kinds), name
    checked = await run(env, 'doctor', 'workers', 'outbox', 'webhooks')
    assert {row['what'] for row in checked.document['findings']} == {
        problem.what for problem in given.problems
    }
    assert checked.document['level'] == level
    assert all(LEVELS[row['severity']] is not Level.OK for row in checked.document['findings'])


async def test_everything_of_the_report_is_told_and_what_is_only_worth_a_look_is_no_failure(
    env, pool, redis
):
    await register(redis)
    for fault in (dead, held, past_expiry, due_in_a_paused_type, paused_relay):
        await fault(pool)
    finished = await ops(env, 'status', '--json')
    assert (finished.status, finished.document['level']) == (0, 'look')
    told = finished.err
    for part in (
        '36 e-mails are dead',
        'may have been delivered',
        'not sent before',
        'of a type that is paused',
        'relay',
    ):
        assert part in told, told


async def test_paused_and_dead_mail_alone_makes_no_check_up_fail(env, pool, redis):
    await register(redis)
    await dead(pool)
    await due_in_a_paused_type(pool)
    given = await run(env, 'doctor', 'outbox', 'workers')
    assert given.exit_status == 0
    assert {row['severity'] for row in given.document['findings']} == {'note'}
