"""The operators' commands, as far as they need no server."""

import argparse
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
import redis.exceptions

from engine.urls import place_of
from logs import hide_addresses
from ops.__main__ import main, make_parser
from ops.answer import Answer
from ops.arguments import count, duration_s, email_id
from ops.cron import every
from reporting.inspection import rates
from reporting.next_step import next_step
from reporting.problems import NO_WORKER, NOBODY_REPLIED, Problem
from reporting.unreachable import postgres_problem, redis_problem
from reporting.wording import as_json, cell, hide_recipient, length

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(hours=2), NOW - timedelta(hours=2)
ROW = {
    'id': 7, 'status': 'pending', 'attempts': 0, 'max_attempts': 5, 'next_retry_at': None,
    'expires_at': None,
    'read_at': NOW, 'relay': None, 'sent_at': None, 'dead_reason': None,
    'message_id': '<m@example.com>',
    'claimed_by': 'w1', 'lease_expires_at': NOW + timedelta(seconds=20), 'is_emptied': False,
}  # fmt: skip
AGAIN = '`python -m ops retry 7` sends it again.'


@pytest.mark.parametrize(
    ('row', 'sentence'),
    [
        ({}, 'It is due: the next free worker or sweep (every 5 minutes) makes attempt 1 of 5.'),
        (
            {'next_retry_at': EARLIER},
            'It is due: the next free worker or sweep (every 5 minutes) makes attempt 1 of 5.',
        ),
        (
            {'next_retry_at': LATER},
            'In 2.0 h, at 2026-01-01 14:00:00Z, a worker makes attempt 1 of 5.',
        ),
        (
            {'max_attempts': 32767},
            'It is due: the next free worker or sweep (every 5 minutes) makes attempt 1.',
        ),
        (
            {'next_retry_at': LATER, 'expires_at': NOW + timedelta(hours=1)},
            'It expires in 60 min, before another attempt would be due.',
        ),
        (
            {'attempts': 5},
            'It is due: the next free worker or sweep (every 5 minutes) makes attempt 6 of 6.',
        ),
        (
            {'expires_at': EARLIER},
            'It is not sent any more: its expires_at is over, and the hourly cleanup will say so.',
        ),
        (
            {'status': 'failed', 'attempts': 2, 'next_retry_at': LATER},
            'In 2.0 h, at 2026-01-01 14:00:00Z, a worker makes attempt 3 of 5.',
        ),
        (
            {'status': 'failed', 'dead_reason': 'rejected'},
            f'Nothing: it is dead (rejected); {AGAIN}',
        ),
        (
            {'status': 'failed', 'attempts': 5, 'next_retry_at': EARLIER},
            f'Nothing: it is dead (no attempt is left); {AGAIN}',
        ),
        (
            {'status': 'uncertain', 'attempts': 1, 'next_retry_at': LATER},
            (
                'In 2.0 h, at 2026-01-01 14:00:00Z, a worker makes attempt 2 of 5, '
                'with the same Message-ID: the first may have been delivered.'
            ),
        ),
        (
            {'status': 'uncertain', 'attempts': 1},
            (
                'It waits for you: the relay may have delivered it or not. Look for '
                f'<m@example.com> in its log; {AGAIN}'
            ),
        ),
        (
            {'status': 'sending', 'attempts': 1},
            'w1 is sending it, attempt 1 of 5; if that worker dies, another takes over in 20 s.',
        ),
        (
            {'status': 'sending', 'lease_expires_at': EARLIER},
            'w1 stopped renewing its lease; the next beat of any worker takes it over.',
        ),
        (
            {'status': 'sent', 'sent_at': EARLIER, 'relay': 'backup'},
            'Nothing: backup accepted it at 2026-01-01 10:00:00Z.',
        ),
        (
            {'status': 'expired', 'expires_at': EARLIER},
            f'Nothing: it was not sent before 2026-01-01 10:00:00Z; {AGAIN}',
        ),
        ({'status': 'cancelled'}, f'Nothing: it was cancelled; {AGAIN}'),
        (
            {'status': 'bounced', 'feedback_at': EARLIER, 'is_emptied': True},
            (
                'Nothing: it bounced at 2026-01-01 10:00:00Z; what it said is deleted '
                '(EMAIL_DROP_CONTENT): queue a new one.'
            ),
        ),
    ],
)
def test_next_step_is_one_sentence_for_every_state(row, sentence):
    assert next_step(ROW | row, has_worker=True) == sentence
    assert next_step(ROW | row, has_worker=None) == sentence


def test_next_step_mentions_the_missing_worker_only_where_one_is_needed():
    assert next_step(ROW, has_worker=False).endswith(' But no worker replies: start one.')
    assert 'no worker' not in next_step(ROW | {'status': 'cancelled'}, has_worker=False)


def test_rates_leave_out_what_was_released_and_do_not_divide_by_nothing():
    rows = [{'outcome': o, 'hour': n} for o, n in (('accepted', 3), ('lost', 1), ('released', 100))]
    assert rates(rows, 'hour') == {
        'accepted': 3, 'deferred': 0, 'rejected': 0, 'uncertain': 0, 'released': 100, 'lost': 1,
        'attempts': 4, 'success_rate': 0.75, 'failure_rate': 0.25,
    }  # fmt: skip
    assert rates([], 'hour')['success_rate'] is None


@pytest.mark.parametrize(
    ('url', 'place'),
    [
        (
            'postgresql://mail:geheim@db.example.com:5433/mail?sslmode=require',
            'db.example.com:5433/mail',
        ),
        ('postgresql://db.example.com/mail', 'db.example.com:5432/mail'),
        ('postgresql://mail:geheim@/mail', 'localhost:5432/mail'),
        ('redis://127.0.0.1:0/1', '127.0.0.1:0/1'),
        ('postgresql://mail:ge%40heim@%2Fvar%2Frun:5432/mail', '/var/run:5432/mail'),
        ('postgresql://mail:geheim@one:1,two:2/mail', 'one:1,two:2/mail'),
        ('postgresql://mail:geheim@[::1]:5432/mail', '[::1]:5432/mail'),
        ('postgresql:///mail?host=/tmp&password=geheim', '/tmp:5432/mail'),
        ('postgresql:///mail?host=one:1,two:2', 'one:1,two:2/mail'),
        ('unix:///run/redis.sock?db=1&password=geheim', '/run/redis.sock'),
        ('postgresql://mail:geh/eim@db/mail', None),
        ('postgresql://mail:geh#eim@db/mail', None),
        ('postgresql://mail:geh?eim@db/mail', None),
        ('postgresql://mail:1234/geheim@db/mail', None),
        ('postgresql://mail:1234#geheim@db/mail', None),
        ('postgresql://mail:1234?geheim@db/mail', None),
    ],
)
def test_place_never_shows_any_part_of_a_password(url, place):
    assert place_of(url, 5432) == place
    if place is None:
        assert (
            '1234'
            not in postgres_problem(OSError("Connect call failed ('mail', 1234)"), place).line
        )


def test_exit_status_is_1_for_a_server_away_before_69_for_workers():
    away = Problem('is away', 'start it', 'Redis', 'localhost:6379/1')
    found = Problem('is late', 'wait')
    assert Answer({}).exit_status == 0
    assert Answer({}, [found]).exit_status == 1
    assert Answer({}, [found, NOBODY_REPLIED]).exit_status == NO_WORKER
    assert Answer({}, [NOBODY_REPLIED, away]).exit_status == 1


@pytest.mark.parametrize(
    ('error', 'remedy'),
    [
        (
            asyncpg.InvalidPasswordError('password authentication failed'),
            'correct DB_USER and DB_PASSWORD',
        ),
        (
            asyncpg.InvalidCatalogNameError('database "x" does not exist'),
            'create it, or correct DB_NAME',
        ),
        (
            asyncpg.CannotConnectNowError('the database system is starting up'),
            "look into the server's log",
        ),
        (asyncpg.QueryCanceledError('statement timeout'), 'look for locks'),
        (TimeoutError(), 'start it, or correct DB_HOST'),
        (asyncpg.InterfaceError('connection is closed'), 'start it, or correct DB_HOST'),
    ],
)
def test_postgres_problem_has_its_own_remedy(error, remedy):
    assert postgres_problem(error, 'db:5432/mail').remedy.startswith(remedy)
    assert '\n' not in postgres_problem(error, 'db:5432/mail').line


@pytest.mark.parametrize(
    ('error', 'remedy'),
    [
        (
            redis.exceptions.AuthenticationError('invalid username-password pair'),
            'correct the user and the password',
        ),
        (redis.exceptions.NoPermissionError('NOPERM'), 'ask as the user email-operator'),
        (redis.exceptions.ConnectionError('refused'), 'start it'),
        (redis.exceptions.TimeoutError('Timeout reading from socket'), 'start it'),
    ],
)
def test_redis_problem_has_its_own_remedy(error, remedy):
    assert (
        '.;'
        not in redis_problem(
            redis.exceptions.ConnectionError('Error 111. Connect call failed.'), 'r'
        ).line
    )
    assert redis_problem(error, 'r:6379/1').remedy.startswith(remedy)


@pytest.mark.parametrize(
    ('text', 'seconds'), [('90s', 90), ('30m', 1800), ('2h', 7200), ('7d', 604800), ('0s', 0)]
)
def test_durations_have_a_unit(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ('read', 'text'),
    [
        *(
            (duration_s, text)
            for text in ('', '2', 'h', '-2h', '2 h', '1.5h', '2w', '٣h', '9999999999d')
        ),
        *(
            (email_id, text)
            for text in ('', '0', '-1', 'x', '1.0', '9223372036854775808', '٣', '9' * 5000)
        ),
        *((count, text) for text in ('0', '-5', '100001', 'all', '²')),
    ],
)
def test_wrong_values_are_refused(read, text):
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)


@pytest.mark.parametrize(
    'arguments',
    [
        [], ['restart'], ['inspect'], ['inspect', 'everything'], ['queue'], ['queue', 'rm'],
        ['show'], ['show', 'x'],
        ['retry', '1', 'x'], ['retry', '--status', 'sent'],
        ['purge'], ['purge', 'outbox'], ['purge', 'outbox', '--status', 'sending'],
        ['purge', 'outbox', '--status', 'pending', '--older-than', '2'], ['failed', '--limit', '0'],
        ['failed', '--since', 'yesterday'], ['failed', '--domain', ''],
        ['retry', '--type', '\udcff'],
    ],
)  # fmt: skip
def test_usage_errors_end_with_2_and_print_no_answer(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('usage: python -m ops')


@pytest.mark.parametrize(
    'command', ['status', 'inspect', 'queue', 'failed', 'show', 'retry', 'purge']
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args([command, '--help'])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_cells_are_one_line_of_printable_text():
    assert cell('a\nb\x1b[2J\u202ec\0') == r'a b\x1b[2J\u202ec\x00'
    assert cell(None) == '-'
    assert cell(NOW) == '2026-01-01 12:00:00Z'


def test_lengths_of_time_are_short():
    assert [length(s) for s in (None, 0.4, 119, 120, 7199, 7200, 172_799, 172_800)] == [
        '-', '0 s', '119 s', '2 min', '120 min', '2.0 h', '48.0 h', '2 d'
    ]  # fmt: skip


def test_json_takes_times_and_uuids():
    assert as_json({'at': NOW, 'token': UUID(int=1)}) == (
        '{\n  "at": "2026-01-01T12:00:00+00:00",\n  "token": '
        '"00000000-0000-0000-0000-000000000001"\n}'
    )


def test_hidden_recipients_keep_their_domains_only():
    assert hide_recipient('"Smith, Anna" <anna@example.com>, ben@xn--bcher-kva.example') == (
        '***@example.com, ***@xn--bcher-kva.example'
    )
    assert hide_recipient('no address at all') == '***'
    assert hide_addresses('<anna+x@example.com>: busy') == '<***@example.com>: busy'
    assert hide_addresses(None) is None


@pytest.mark.parametrize(
    ('command', 'shown', 'hidden'),
    [('control', 'stacks', 'autoscale'), ('inspect', 'active', 'objgraph')],
)
@pytest.mark.parametrize('word', ['--help', 'everything'])
def test_help_and_errors_list_only_words_that_do_something(command, shown, hidden, word, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, word])
    printed = ''.join(capsys.readouterr())
    assert shown in printed
    assert hidden not in printed
    assert 'SUPPRESS' not in printed
    assert make_parser().parse_args([command, hidden])
    assert make_parser().parse_args(['control', 'ping']).word == 'ping'


def test_how_often_a_duty_runs_is_told_in_the_largest_unit_that_fits():
    assert [every(s) for s in (None, 30, 60, 300, 3600, 5400, 86400, 172_800)] == [
        '-', '30 s', '1 min', '5 min', '1 h', '90 min', '1 day', '2 days'
    ]  # fmt: skip
