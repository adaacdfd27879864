"""ops control, relay, cron, inspect, events and top against workers that listen in this process."""

import asyncio
import contextlib
import json

import pytest

from db import switches
from db.switches import SwitchKind
from delivery import activity
from fleet import events
from fleet.channel import Handler, command_channel, is_count, is_rate, listen_for_commands
from fleet.registry import RECORD_PREFIX, WORKERS_KEY
from tests.conftest import wait_until
from tests.services.ops_desk import closed_port, insert, rendered, run

RECORD = {
    'queue': 'arq:queue',
    'started_at': '2026-01-01T00:00:00+00:00',
    'emails': [{'id': 7, 'phase': 'rcpt', 'relay': 'backup', 'started_at': 1.0}],
    'outcomes': {'accepted': 3},
    'rss_bytes': 2**26,
    'functions': ['cleanup_old_sessions', 'send_email'],
    'duties': [{'name': 'cleanup_old_sessions', 'every_s': 86400, 'missed': 'once'}],
    'relays': [
        {
            'name': 'primary',
            'place': 'smtp.example:587',
            'tls': 'starttls',
            'state': 'ready',
            'last_error': None,
        }
    ],
    'version': '1.2.3',
    'settings': 'abcdef',
}
A, B = 'mail1@a:1', 'mail2@b:2'


class Worker:
    """Replies to everything, and remembers what it was told."""

    def __init__(self, name):
        self.name = name
        self.told = []
        self.handlers = {
            'ping': Handler(lambda _: {'pong': True}),
            'describe': Handler(lambda _: {'worker': name} | RECORD),
            'conf': Handler(
                lambda _: {
                    'SMTP_PORT': 25 if name == A else 26,
                    'LOG_LEVEL': 'INFO',
                    'WORKER_NAME': name,
                }
            ),
            'stacks': Handler(lambda _: {'stacks': 'Task-1 main\n  worker.py:1 main'}),
            'pause': self.hear('pause', {'paused': ['paused by `ops control pause`']}),
            'shutdown': self.hear('shutdown', {'stopping': True, 'sending': 2}),
            'grow': self.hear('grow', {'emails': 22, 'before': 20}, by=is_count),
            'rate_limit': self.hear('rate_limit', {'per_s': 10.0, 'before': 0.0}, per_s=is_rate),
            'events': self.hear('events', {'events': True}),
        }

    def hear(self, word, reply, **arguments):
        def do(given):
            self.told.append((word, dict(given)))
            return reply

        return Handler(do, arguments)


async def register(redis, name):
    await redis.set(RECORD_PREFIX + name, json.dumps({'worker': name} | RECORD), px=15000)
    await redis.zadd(WORKERS_KEY, {name: 1})


@pytest.fixture
async def fleet(redis):
    workers = [Worker(name) for name in (A, B)]
    tasks = [asyncio.create_task(listen_for_commands(redis, w.name, w.handlers)) for w in workers]
    for worker in workers:
        await register(redis, worker.name)

    async def listening():
        return (await redis.pubsub_numsub(command_channel(redis)))[0][1] == 2

    await wait_until(listening)
    yield workers
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_control_tells_all_workers_and_shows_what_each_did(env, redis, fleet):
    given = await run(env, 'control', 'pool_grow', '2', '--yes')
    assert given.exit_status == 0
    assert [worker.told for worker in fleet] == [[('grow', {'by': 2})]] * 2
    assert [done['worker'] for done in given.document['done']] == [A, B]
    assert '20 -> 22' in rendered('control', given)


async def test_control_tells_only_the_workers_that_are_named(env, redis, fleet):
    await run(env, 'control', 'rate_limit', '600/m', '--yes', '--worker', 'mail2*')
    assert [worker.told for worker in fleet] == [[], [('rate_limit', {'per_s': 10.0})]]


async def test_control_dry_run_tells_nobody(env, redis, fleet):
    given = await run(env, 'control', 'shutdown', '--dry-run')
    assert 'Would tell shutdown to mail1@a:1, mail2@b:2' in rendered('control', given)
    assert [worker.told for worker in fleet] == [[], []]


async def test_control_of_a_worker_that_is_silent_says_which_and_ends_with_1(env, redis, fleet):
    await register(redis, 'hung@c:3')
    given = await run(env, 'control', 'pause', '--yes')
    assert given.exit_status == 1
    assert [problem.what for problem in given.problems] == ['no reply from hung@c:3']
    assert len(given.document['done']) == 2


@pytest.mark.parametrize(
    'words', [('control', 'shutdown', '--yes'), ('inspect', 'ping'), ('control', 'stacks')]
)
async def test_command_that_nobody_replies_to_ends_with_69(env, redis, words):
    assert (await run(env, *words)).exit_status == 69


async def test_unknown_worker_ends_with_69_and_names_the_known(env, redis, fleet):
    given = await run(env, 'inspect', 'ping', '-d', 'mail3*')
    assert given.exit_status == 69
    assert given.problems[0].remedy == 'known: mail1@a:1, mail2@b:2'


@pytest.mark.parametrize('name', ['mail3*', 'mail3@c:3'])
async def test_control_of_an_unknown_worker_says_so_before_it_asks_and_in_a_dry_run(
    env, redis, fleet, name
):
    for more in (
        [],
        ['--dry-run'],
    ):  # without --yes and a terminal, a question would be an error here
        given = await run(env, 'control', 'shutdown', '-d', name, *more)
        assert (given.exit_status, given.problems[0].remedy) == (69, 'known: mail1@a:1, mail2@b:2')
        assert given.document['workers'] == []


async def test_control_tells_the_workers_it_finds_and_names_those_it_does_not(env, redis, fleet):
    given = await run(env, 'control', 'pause', '-d', A, '-d', 'mail3@c:3', '--yes')
    assert [worker.told for worker in fleet] == [[('pause', {})], []]
    assert (given.exit_status, [problem.what for problem in given.problems]) == (
        69,
        ['no reply from mail3@c:3'],
    )


async def test_control_pauses_a_type_for_all_workers_or_not_at_all(env, redis, fleet):
    given = await run(env, 'control', 'pause', '--type', 'news', '-d', A)
    assert (given.exit_status, given.problems[0].remedy) == (2, 'leave out --worker')
    assert given.problems[0].what == 'the e-mail type news is paused and resumed for all workers'


async def test_control_without_a_worker_says_so_before_it_asks(env, redis):
    for more in ([], ['--dry-run']):
        assert (await run(env, 'control', 'shutdown', *more)).exit_status == 69


async def test_workers_are_found_while_their_records_are_missing(
    env, pool, redis, fleet, monkeypatch
):
    email_id, waits = await insert(pool, status='failed', attempts=5), await insert(pool)
    for words in (
        ('retry', str(email_id), '--yes'), ('explain', str(waits)),
        ('call', 'send_email', str(waits), '--yes'),
        ('queue', 'ls'), ('inspect', 'active_queues'), ('status',), ('top', '--once'),
        ('cron', 'ls'),
        ('cron', 'run', 'cleanup_old_sessions', '--yes'),
        ('control', 'pause', '-d', A, '--dry-run'),
        ('relay', 'ls'), ('control', 'pause', '--type', 'news', '--force', '--dry-run'),
    ):  # fmt: skip
        await redis.delete(
            WORKERS_KEY, *(RECORD_PREFIX + name for name in (A, B))
        )  # as FLUSHALL does
        given = await run(env, *words)
        assert given.exit_status == 0, (words, given.problems)
    assert given.document['workers'] == 2
    assert 'no worker' not in (await run(env, 'show', str(waits))).document['next']


@pytest.mark.parametrize(
    ('word', 'told'),
    [
        ('autoscale', 'concurrency'),
        ('add_consumer', 'HighPriority'),
        ('time_limit', 'SMTP_'),
        ('revoke', 'purge'),
    ],
)
async def test_word_without_a_meaning_here_is_answered_in_one_line_with_what_to_use(
    env, redis, word, told
):
    given = await run(env, 'control', word, '3', '10', '-d', 'x')
    assert (given.exit_status, given.document) == (2, {})
    (problem,) = given.problems
    assert told in problem.line


async def test_stacks_are_shown_without_asking(env, redis, fleet):
    assert 'worker.py:1 main' in rendered('control', await run(env, 'control', 'stacks', '-d', A))


async def test_pause_of_a_type_is_kept_and_says_how_many_emails_wait(env, pool, redis):
    await insert(pool, email_type='news')
    await insert(pool, email_type='news', status='sent', sent_at='sql:now()')
    given = await run(env, 'control', 'pause', '--type', 'news', '--reason', 'typo', '--yes')
    assert (given.exit_status, given.document['changed'], given.document['waiting']) == (0, True, 1)
    (kept,) = await switches.read_switches(pool)
    assert (kept.kind, kept.name, kept.reason) == (SwitchKind.EMAIL_TYPE, 'news', 'typo')
    text = rendered('control', given)
    assert 'E-mails of this type that wait: 1.' in text
    assert 'control resume --type news' in text
    assert 'typo' in rendered('control', await run(env, 'control', 'ls'))
    again = await run(env, 'control', 'pause', '--type', 'news', '--yes')
    assert (again.document['changed'], again.document['already']) == (False, True)
    await run(env, 'control', 'resume', '--type', 'news', '--yes')
    assert await switches.read_switches(pool) == []


@pytest.mark.parametrize(
    ('words', 'known'),
    [
        (('control', 'pause', '--queue', 'nope'), 'arq:queue, high_priority, low_priority'),
        (('control', 'pause', '--type', 'nope'), 'news'),
        (('relay', 'pause', 'nope'), 'primary'),
        (('cron', 'pause', 'nope'), 'cleanup_old_sessions'),
        (('cron', 'run', 'nope'), 'cleanup_old_sessions'),
        (('relay', 'resume', 'primary'), 'no relay is paused'),
    ],
)
async def test_unknown_name_is_refused_and_the_known_ones_are_named(
    env, pool, redis, fleet, words, known
):
    await insert(pool, email_type='news')
    given = await run(env, *words, '--yes')
    assert given.exit_status == 2
    assert known in given.problems[0].remedy
    assert await switches.read_switches(pool) == []


async def test_name_that_nobody_knows_yet_is_paused_by_force(env, pool, redis):
    assert (await run(env, 'control', 'pause', '--type', 'new', '--force', '--yes')).document[
        'changed'
    ]


async def test_dry_run_of_a_pause_changes_nothing(env, pool, redis):
    given = await run(env, 'relay', 'pause', 'primary', '--dry-run')
    assert 'Nothing was changed' in rendered('relay', given)
    assert await switches.read_switches(pool) == []


async def test_switches_work_while_redis_is_away(env, pool):
    env |= {'ARQ_REDIS_URL': f'redis://127.0.0.1:{closed_port()}/1'}
    given = await run(env, 'control', 'pause', '--queue', 'arq:queue', '--yes')
    assert (given.exit_status, given.document['changed']) == (0, True)


async def test_status_shows_what_is_paused(env, pool, redis, fleet):
    await switches.pause(pool, SwitchKind.RELAY, 'backup', reason='moving', by='anna')
    given = await run(env, 'status')
    assert 'moving' in rendered('status', given)
    assert [s['name'] for s in given.document['switches']] == ['backup']


async def test_relay_ls_shows_health_by_worker_and_a_paused_fleet_is_problem(
    env, pool, redis, fleet, monkeypatch
):
    given = await run(env, 'relay', 'ls')
    assert given.exit_status == 0
    assert [(r['worker'], r['name'], r['state']) for r in given.document['relays']] == [
        (A, 'primary', 'ready'),
        (B, 'primary', 'ready'),
    ]
    cooling = {
        'name': 'primary',
        'state': 'cooling down',
        'retry_in_s': 3,
        'last_error': 'anna@example.com is bad',
    }
    monkeypatch.setitem(RECORD, 'relays', [cooling])
    given = await run(env, 'relay', 'ls')
    assert (given.exit_status, len(given.problems)) == (1, 2)
    assert 'anna' not in given.problems[0].line + rendered('relay', given)
    monkeypatch.setitem(RECORD, 'relays', [cooling | {'state': 'ready', 'most_per_s': 12.5}])
    given = await run(env, 'relay', 'ls')
    assert (given.exit_status, [r['most_per_s'] for r in given.document['relays']]) == (
        0,
        [12.5, 12.5],
    )
    assert '12.5/s' in rendered('relay', given)


async def test_relay_ls_without_a_worker_shows_our_own_settings_and_ends_with_69(env, pool, redis):
    given = await run(env, 'relay', 'ls')
    assert [(r['name'], r['state']) for r in given.document['relays']] == [('primary', 'no worker')]
    assert (given.exit_status, [problem.what for problem in given.problems]) == (
        69,
        ['no worker replied'],
    )
    await register(redis, A)
    given = await run(env, 'relay', 'ls', '-d', 'nobody', '-t', '0.1')
    assert (given.exit_status, given.problems[0].what) == (69, 'no worker of that name replied')


async def test_cron_ls_joins_tables_runs_and_switches(env, pool, redis, fleet):
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome, '
        'affected) '
        "VALUES ('cleanup_old_sessions', now(), 'w', now(), now(), 'done', 5)"
    )
    await switches.pause(pool, SwitchKind.CRON, 'cleanup_old_sessions', reason='slow', by='anna')
    given = await run(env, 'cron', 'ls')
    (duty,) = given.document['duties']
    assert (duty['every_s'], duty['last']['affected'], duty['paused']['reason']) == (
        86400,
        5,
        'slow',
    )
    assert 0 < duty['next_in_s'] <= 86400
    assert 'by anna: slow' in rendered('cron', given)


async def test_cron_ls_without_a_worker_says_that_nobody_runs_them_and_ends_with_69(
    env, pool, redis
):
    given = await run(env, 'cron', 'ls')
    assert (given.exit_status, [problem.what for problem in given.problems]) == (
        69,
        ['no worker replied'],
    )


async def test_cron_run_puts_the_duty_where_a_worker_runs_it(env, redis, fleet, monkeypatch):
    monkeypatch.setitem(RECORD, 'queue', 'low_priority')
    for worker in fleet:
        await register(redis, worker.name)
    given = await run(env, 'cron', 'run', 'cleanup_old_sessions', '--yes')
    assert given.exit_status == 0
    (job,) = await redis.queued_jobs(queue_name='low_priority')
    assert job.function == 'cleanup_old_sessions'


async def test_inspect_active_tells_phase_and_relay_as_the_worker_does(env, pool, redis, fleet):
    await insert(pool, id=7, status='sending', claimed_by=A)
    given = await run(env, 'inspect', 'active')
    (email,) = given.document['emails']
    assert (email['id'], email['phase'], email['relay'], email['worker']) == (
        7,
        'rcpt',
        'backup',
        A,
    )
    assert 'rcpt' in rendered('inspect', given)


async def test_inspect_reserved_leaves_out_emails_that_are_being_sent(env, redis, fleet):
    for email_id in (7, 8):
        await redis.enqueue_job('send_email', email_id, _job_id=f'job{email_id}')
        await redis.psetex(f'arq:in-progress:job{email_id}', 30000, b'1')
    given = await run(env, 'inspect', 'reserved')
    assert [job['email_id'] for job in given.document['jobs']] == [8]


@pytest.mark.parametrize(
    ('words', 'shown'),
    [
        (('ping',), 'pong'),
        (('registered',), 'mail1@a:1, mail2@b:2 run in time'),
        (('registered',), 'cleanup_old_sessions  1 day'),
        (('stats',), '1.2.3'),
        (('active_queues',), 'running'),
        (('report',), 'postgresql'),
        (('query_task', 'job'), 'deferred'),
    ],
)
async def test_inspect_words_answer(env, redis, fleet, words, shown):
    await redis.enqueue_job('send_email', 8, _job_id='job', _defer_by=60)
    given = await run(env, 'inspect', *words)
    assert given.exit_status == 0, given.problems
    assert shown in rendered('inspect', given)


async def test_inspect_conf_shows_first_what_differs(env, redis, fleet):
    given = await run(env, 'inspect', 'conf')
    first, *_ = rendered('inspect', given).split('Settings of')
    assert 'SMTP_PORT' in first
    assert 'LOG_LEVEL' not in first
    assert 'WORKER_NAME' not in first


async def test_inspect_refuses_job_ids_where_they_mean_nothing(env, redis):
    for words, what in (
        (['active', 'job'], 'active takes no ids of jobs'),
        (['query_task'], 'query_task needs'),
    ):
        given = await run(env, 'inspect', *words)
        assert given.exit_status == 2
        assert given.problems[0].what.startswith(what)


async def test_top_prints_one_frame_without_a_terminal_and_survives_hostile_text(
    env, pool, redis, fleet
):
    await insert(pool)
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        'error) VALUES '
        "(9, now(), 1, 'w', 'deferred', 'rcpt', E'[bold]anna@example.com\\x1b[2J')"
    )
    given = await run(env, 'top', '--once')
    assert given.exit_status == 0
    text = rendered('top', given)
    assert '2 workers' in text
    assert '1 deferred' in text
    assert '1 due' in text
    assert r'[bold]***@example.com\x1b[2J' in text
    assert given.document['outbox']['due'] == 1


async def test_events_are_asked_for_printed_and_hide_recipients(env, redis, fleet, capsys):
    listening = asyncio.create_task(run(env, 'events', '--count', '2', '--json'))
    await wait_until(lambda: ('events', {}) in fleet[0].told)
    batch = [
        {'event': 'claimed', 'email_id': 3, 'at': 0.0},
        {'event': 'rejected', 'reply': '550 anna@example.com'},
    ]
    for text in ('junk', '[1]', json.dumps(batch)):
        await redis.publish(events.events_channel(redis), text)
    given = await listening
    assert (given.exit_status, given.streamed) == (0, True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first['email_id'], first['at']) == (3, '1970-01-01T00:00:00.000+00:00')
    assert second['reply'] == '550 ***@example.com'


async def test_events_cost_nothing_until_wanted_and_drop_what_is_too_much(redis, monkeypatch):
    monkeypatch.setattr(activity, 'PUBLISH_EVERY_S', 0.01)
    monkeypatch.setattr(activity, 'MAX_UNPUBLISHED', 3)
    monkeypatch.setattr(activity, 'SUBSCRIBED_S', 0.1)
    told, own = [], activity.Events()

    async def publish(batch):
        told.extend(batch)

    assert not own.wanted
    own.want(publish)
    assert own.wanted
    for number in range(5):
        own.add('claimed', email_id=number)
    await wait_until(lambda: any(event['event'] == 'dropped' for event in told))
    assert [event['email_id'] for event in told if event['event'] == 'claimed'] == [0, 1, 2]
    await wait_until(lambda: not own.wanted)
    with contextlib.suppress(asyncio.CancelledError):
        await own._publishing
