"""Whatever stands in Redis, in PostgreSQL or in a reply.

No command lets it steer the terminal, and JSON stays JSON.
"""

import asyncio
import contextlib
import io
import json
import sys
import unicodedata

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from fleet.channel import command_channel
from fleet.registry import RECORD_PREFIX
from logs import visible
from ops import __main__ as command_line
from ops import events
from ops.arguments import confirmed
from ops.output import make_console, print_table, say
from reporting.wording import as_json
from tests.conftest import wait_until
from tests.services.ops_desk import Typed, insert, rendered, run
from tests.services.test_one_judge import look_at_page
from tests.services.test_ops_status import RECORD, register

WHOLE = (
    '\x1b]0;owned\x07\x1b[2J\x1b[31m[bold]red[/bold] '
    ':smile:\r\n\x00\x08\x7f\x85\x9b31m\u200e\u202e\u2066\u2028end'
)
EVIL = WHOLE + '\ud800'
STEERING = {'Cc', 'Cf', 'Cs', 'Zl', 'Zp'}
EVIL_RECORD = {
    'worker': f'evil{WHOLE}@host:1', 'queue': f'evil{WHOLE}', 'version': EVIL, 'settings': EVIL,
    'log_level': EVIL,
    'state': 'paused', 'paused': [EVIL], 'functions': [EVIL],
    'outcomes': {EVIL: 3, 'accepted': 'x' + EVIL},
    'jobs_done': {EVIL: []}, 'emails': [{'id': [], 'phase': {}, 'relay': EVIL, EVIL: EVIL},
        {'id': 7, 'phase': EVIL}],
    'jobs': [{'job_id': EVIL, 'started_at': 'x'}, {'job_id': [EVIL]}],
    'relays': [
        {'name': EVIL, 'place': EVIL, 'tls': EVIL, 'state': 'cooling down', 'last_error': EVIL,
            'retry_in_s': EVIL},
        {'name': 7, 'state': EVIL, 'most_per_s': EVIL, 'last_error': 7},
    ],
    'duties': [{'name': EVIL, 'every_s': EVIL, 'missed': [EVIL]}, {'name': [EVIL]}],
}  # fmt: skip
DONE = {
    'pong': EVIL,
    'stacks': EVIL,
    'relays': {EVIL: EVIL},
    'per_s': EVIL,
    'before': [EVIL],
    'SMTP_HOST': EVIL,
    'x': {EVIL: [EVIL]},
}


def steering(text):
    return sorted(
        {f'U+{ord(c):04X}' for c in text if c != '\n' and unicodedata.category(c) in STEERING}
    )


@contextlib.asynccontextmanager
async def evil_worker(redis):
    """A worker that replies to every command with what it likes."""

    async def reply():
        async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(command_channel(redis))
            await pubsub.psubscribe(command_channel(redis) + ':*')
            while True:
                message = await pubsub.get_message(timeout=1)
                if message is not None:
                    command = json.loads(message['data'])
                    done = DONE if command['command'] != 'describe' else EVIL_RECORD
                    refused = {'refused': EVIL} if command['command'] == 'grow' else {'done': done}
                    text = json.dumps({'worker': EVIL_RECORD['worker'], **refused})
                    await redis.rpush('mail:reply:' + command['id'], text)

    task = asyncio.create_task(reply())
    await wait_until(redis.pubsub_numpat)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def evil_world(redis, pool):
    await register(redis, **EVIL_RECORD)
    for half in ({'worker': EVIL}, {'queue': EVIL}):  # no names
        await redis.set(RECORD_PREFIX + 'half', json.dumps(RECORD | half), px=600_000)
    await redis.zadd('mail:workers', {'half': 1})
    await register(redis)
    await redis.enqueue_job(visible(EVIL), 1, _job_id='j' + WHOLE, _queue_name='q' + WHOLE)
    in_row = WHOLE.replace('\x00', '')
    parts = {
        'subject': in_row,
        'body_text': in_row,
        'email_type': in_row[:30],
        'smtp_response': in_row,
        'last_error': in_row,
    }
    email_id = await insert(
        pool, recipient='anna@example.com', status='failed', attempts=1, **parts
    )
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        'relay, reply, error) '
        "VALUES ($1, now(), 1, $2, 'rejected', 'rcpt', $2, $2, $2)", email_id, in_row,
    )  # fmt: skip
    await pool.execute(
        (
            "INSERT INTO mail_switches (kind, name, reason, paused_by) VALUES ('email_type', "
            '$1, $1, $1)'
        ),
        in_row,
    )
    await pool.execute(
        'INSERT INTO service_health (service_name, status, response_time_ms, error_message, '
        'checked_at) '
        "VALUES ($1, 'down', 1, $1, now())", in_row,
    )  # fmt: skip
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome, '
        'detail) '
        "VALUES ($1, now(), $1, now(), now(), 'error', $2)", in_row, json.dumps({'error': in_row}),
    )  # fmt: skip
    async with evil_worker(redis):
        yield email_id


COMMANDS = [
    *(['inspect', word] for word in (
        'ping', 'active', 'reserved', 'scheduled', 'registered', 'active_queues', 'stats', 'conf',
        'report')),
    *(['control', *words] for words in (
        ['stacks'], ['rate_limit', '5', '--yes'], ['pause', '--yes'], ['ls'],
        ['pool_grow', '3', '--yes'], ['reload_relays', '--dry-run'])),
    ['inspect', 'query_task', 'j'], ['status'], ['top', '--once'],
    ['doctor', 'workers', 'outbox', 'redis'], ['relay', 'ls'],
    ['cron', 'ls'], ['queue', 'ls'], ['queue', 'peek'], ['failed'], ['find'], ['qshape'],
    ['show', '1', '--content'],
    ['explain', '1'], ['retry', '--status', 'failed', '--dry-run'], ['purge', 'queue', '--dry-run'],
    ['suppress', 'ls'], ['sender', 'ls'],
]  # fmt: skip


@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
async def test_no_command_passes_on_what_steers_a_terminal(
    env, evil_world, words, capsys, monkeypatch
):
    waiting = ['-t', '0.3'] if words[0] in ('inspect', 'status', 'top') else []
    given = await run(env, *words, *waiting)
    assert given.document, given.problems
    shown = rendered(words[0], given)
    assert steering(shown) == []
    assert ':smile:' not in shown or '[bold]' in shown  # neither markup nor emoji is made of it
    told = as_json(
        given.document | {'troubles': [problem.as_document() for problem in given.problems]}
    )
    assert told.isascii()
    assert steering(told) == []
    told.encode()
    json.loads(told, parse_constant=pytest.fail)
    monkeypatch.setattr('ops.running.asyncio.run', lambda asked: asked.close() or given)
    for more in ([], ['--json']):
        if words[0] == 'top' and not more:
            continue
        command_line.main([*words, *waiting, *more])
        printed = capsys.readouterr()
        assert steering(printed.out) == steering(printed.err) == []


async def test_page_metrics_and_status_pass_on_nothing_that_steers_a_terminal(env, evil_world):
    page, status, metrics = await look_at_page(env)
    for told in (page, status, metrics):
        assert steering(told) == []
    assert 'evil' in page
    json.loads(status, parse_constant=pytest.fail)
    samples = [
        sample for family in text_string_to_metric_families(metrics) for sample in family.samples
    ]
    assert any('\\x1b' in value for sample in samples for value in sample.labels.values())


def test_events_are_harmless_lines_and_json(capsys):
    event = {
        'event': EVIL,
        'worker': EVIL,
        'at': 1e99,
        'email_id': EVIL,
        'type': EVIL,
        'error': EVIL,
        EVIL: float('nan'),
    }
    for as_json_line in (False, True):
        events._print(event, as_json=as_json_line)
        line = capsys.readouterr().out
        assert (line.count('\n'), steering(line)) == (1, [])
    json.loads(line, parse_constant=pytest.fail)


def test_question_shows_harmless_names(monkeypatch, capsys):
    monkeypatch.setattr('ops.arguments.sys.stdin', Typed('y\n'))
    assert confirmed(f'Shut down {EVIL}?', yes=False)
    assert steering(capsys.readouterr().err) == []


def test_console_is_the_last_gate_and_keeps_its_own_styles(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    console = make_console()
    console.print(EVIL, style='bold')
    assert steering(sys.stdout.getvalue()) == []
    console._color_system = Console(force_terminal=True, color_system='standard')._color_system
    console._force_terminal = True
    console.print('warm', style='red')
    assert '\x1b[31mwarm\x1b[0m' in sys.stdout.getvalue()


def test_titles_columns_and_sentences_are_harmless():
    console = Console(file=io.StringIO(), width=300, markup=False, highlight=False, emoji=False)
    print_table(console, EVIL, (EVIL, 'x'), [(EVIL, 1)])
    print_table(console, EVIL, (), [])
    say(console, EVIL)
    assert steering(console.file.getvalue()) == []


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('plain ü 漢字 🙂', 'plain ü 漢字 🙂'),
        ('\x1b[2J', '\\x1b[2J'),
        ('a\x7fb\x9bc', 'a\\x7fb\\x9bc'),
        ('\u202eevil', '\\u202eevil'),
        ('half \ud800', 'half \\ud800'),
        ('\U000e0041', '\\U000e0041'),
        ('two\nlines\ttab\xa0hard\u3000wide', 'two lines tab hard wide'),
    ],
)
def test_what_does_not_print_is_shown_by_its_number(text, shown):
    assert visible(text) == shown


def test_document_that_json_cannot_hold_is_cut_to_what_it_can():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    told = json.loads(
        as_json({'deep': deep, 'nan': float('nan'), 'half\ud800': '\ud800', 'ok': [1, '🙂']})
    )
    assert (told['nan'], told['half\\ud800'], told['ok']) == (None, '\\ud800', [1, '🙂'])
