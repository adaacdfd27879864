"""The log pipeline: one line per event, and no recipient in clear above DEBUG."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from logs import LONGEST_CHARS, configure_logs, hide_addresses, write_line

Lines = Callable[[], list[str]]
TIMES = re.compile(r'\d{4}-\d\d-\d\dT[\d:.]+Z')


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    """Leave the logging of the test run as it was."""
    root = logging.getLogger()
    arq_loggers = [logging.getLogger(name) for name in ('arq', 'arq.worker')]
    ours_before = structlog.get_config()
    before = [
        (logger, logger.handlers[:], logger.level, logger.propagate)
        for logger in (root, *arq_loggers)
    ]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    structlog.contextvars.clear_contextvars()
    structlog.configure(**ours_before)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return the lines written since the last call."""

    def written() -> list[str]:
        return capsys.readouterr().err.splitlines()

    return written


@pytest.fixture
def events(lines: Lines) -> Callable[[], list[dict[str, Any]]]:
    """Return the lines written since the last call, each read as JSON."""
    return lambda: [json.loads(line) for line in lines()]


def our(method: str, *arguments: Any, **values: Any) -> None:
    getattr(structlog.get_logger(), method)(*arguments, **values)


# Recipients.

LEVELS = ['info', 'error']


@pytest.mark.parametrize('format_', ['json', 'console'])
@pytest.mark.parametrize('level', LEVELS)
def test_recipient_is_hidden_in_our_lines(lines: Lines, level: str, format_: Any) -> None:
    configure_logs('DEBUG', format_)
    our(level, 'refused', error='primary: anna@example.com: 550 5.1.1 <anna@example.com> unknown')
    (line,) = lines()
    assert 'anna' not in line
    assert 'example.com' in line
    assert '550 5.1.1' in line


@pytest.mark.parametrize('format_', ['json', 'console'])
@pytest.mark.parametrize('level', LEVELS)
def test_recipient_is_hidden_in_lines_of_libraries(lines: Lines, level: str, format_: Any) -> None:
    configure_logs('DEBUG', format_)
    getattr(logging.getLogger('a.library'), level)(
        'refused %s', 'anna@example.com', extra={'rcpt': 'anna@example.com'}
    )
    (line,) = lines()
    assert 'anna' not in line
    assert 'refused' in line


@pytest.mark.parametrize(
    'value',
    [
        'anna@example.com',
        'A. Doe <anna@example.com>',
        'anna+tag@example.com, x.anna@example.com',
        'anna@localhost',
        'anna@xn--bcher-kva.example',
        '"anna b"@example.com',
        ['anna@example.com'],
        ('anna@example.com',),
        {'to': 'anna@example.com'},
        {'anna@example.com': 'refused'},
        {'outcomes': [{'to': 'anna@example.com'}]},
        b'anna@example.com',
        ValueError('anna@example.com'),
    ],
    ids=repr,
)
def test_recipient_is_hidden_in_any_kind_of_value(lines: Lines, value: Any) -> None:
    configure_logs('INFO', 'json')
    our('info', 'something', value=value)
    assert 'anna' not in '\n'.join(lines())


def test_recipient_is_hidden_in_the_event_itself(lines: Lines) -> None:
    configure_logs('INFO', 'json')
    our('info', 'refused anna@example.com')
    assert 'anna' not in lines()[0]


ADDRESS, PASSWORD = 'anna@example.com', 'hunter2'  # not in the lines that a traceback quotes


def refuse(address: str, password: str) -> None:
    raise ValueError(f'refused {address}', len(password))


@pytest.mark.parametrize('format_', ['json', 'console'])
@pytest.mark.parametrize('whose', ['ours', 'a library'])
def test_recipient_and_local_values_are_hidden_in_exceptions(
    lines: Lines, whose: str, format_: Any
) -> None:
    """A traceback with its local values shows bodies, addresses and passwords."""
    configure_logs('INFO', format_)
    try:
        refuse(ADDRESS, PASSWORD)
    except ValueError:
        if whose == 'ours':
            our('exception', 'unexpected error')
        else:
            logging.getLogger('a.library').exception('unexpected error')
    told = '\n'.join(lines())
    assert 'ValueError' in told
    assert 'in refuse' in told
    assert '@example.com' in told
    assert 'anna@' not in told
    assert PASSWORD not in told


def test_recipient_is_shown_at_debug(lines: Lines) -> None:
    configure_logs('DEBUG', 'json')
    our('debug', 'command', line='RCPT TO:<anna@example.com>')
    assert 'anna@example.com' in lines()[0]


def test_worker_and_message_id_are_no_recipients(
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    configure_logs('INFO', 'json')
    our(
        'info',
        'accepted',
        worker='worker@host:1',
        message_id='<1@example.com>',
        other='no address @ all',
    )
    (event,) = events()
    assert (event['worker'], event['message_id']) == ('worker@host:1', '<1@example.com>')
    assert event['other'] == 'no address @ all'


# Lines.


def test_value_of_megabytes_is_cut(events: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logs('INFO', 'json')
    structlog.get_logger().info(
        'email.rejected', message_id='x' * 6_000_000, error='anna@x' * 10_000
    )
    (event,) = events()
    assert event['message_id'] == 'x' * LONGEST_CHARS + '... (6000000 characters)'
    assert len(event['error']) < 2 * LONGEST_CHARS
    assert 'anna' not in event['error']


def test_json_is_one_line_per_event(lines: Lines) -> None:
    configure_logs('INFO', 'json')
    our('info', 'two\nlines', text='a\r\nb', odd='\u2028', value=object(), number=1.5, nothing=None)
    try:
        refuse('anna', 'x')
    except ValueError:
        our('exception', 'failed')
        logging.getLogger('a.library').exception('failed\nbadly')
    logging.getLogger('a.library').warning('one\ntwo')
    written = lines()
    assert len(written) == 4
    assert [json.loads(line)['level'] for line in written] == ['info', 'error', 'error', 'warning']


def test_event_tells_time_in_utc_and_level(events: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logs('INFO', 'json')
    our('warning', 'deferred', code=451)
    (event,) = events()
    assert event['event'] == 'deferred'
    assert (event['level'], event['code']) == ('warning', 451)
    assert event['timestamp'].endswith('Z')


def test_bound_context_appears_in_our_lines_and_in_those_of_libraries(
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    configure_logs('INFO', 'json')
    structlog.contextvars.bind_contextvars(worker='worker@host:1', job_id='j1')
    with structlog.contextvars.bound_contextvars(email_id=5, attempt=2):
        our('info', 'accepted')
        logging.getLogger('a.library').warning('slow')
    our('info', 'done')
    inside, library, outside = events()
    bound = {'worker': 'worker@host:1', 'job_id': 'j1', 'email_id': 5, 'attempt': 2}
    assert bound.items() <= inside.items()
    assert bound.items() <= library.items()
    assert 'email_id' not in outside
    assert outside['job_id'] == 'j1'


@pytest.mark.parametrize(
    ('level', 'shown'),
    [
        ('DEBUG', ['debug', 'info', 'warning', 'error']),
        ('INFO', ['info', 'warning', 'error']),
        ('WARNING', ['warning', 'error']),
        ('ERROR', ['error']),
    ],
)
def test_only_the_level_and_above_is_shown(
    events: Callable[[], list[dict[str, Any]]], level: str, shown: list[str]
) -> None:
    configure_logs(level, 'json')
    for method in ('debug', 'info', 'warning', 'error'):
        our(method, method)
    assert [event['event'] for event in events()] == shown


def test_arq_speaks_through_the_pipeline_and_keeps_its_line_per_job_to_itself(
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    """arq's command installs a handler of its own before it imports the worker's settings."""
    logging.getLogger('arq').addHandler(logging.StreamHandler(sys.stderr))
    configure_logs('INFO', 'json')
    logging.getLogger('arq.worker').info('  0.01s -> j1:send_email(1)')
    logging.getLogger('arq.worker').warning('job %s expired', 'j1')
    logging.getLogger('arq.connections').info('redis connection successful')
    assert [event['event'] for event in events()] == [
        'job j1 expired',
        'redis connection successful',
    ]


def test_last_configuration_wins(lines: Lines) -> None:
    configure_logs('ERROR', 'console')
    configure_logs('INFO', 'json')
    our('info', 'once')
    logging.getLogger('a.library').warning('once more')
    assert [json.loads(line)['event'] for line in lines()] == ['once', 'once more']


def test_auto_is_json_where_nobody_watches(lines: Lines) -> None:
    configure_logs('INFO', 'auto')
    our('info', 'started')
    assert json.loads(lines()[0])['event'] == 'started'


def test_auto_is_console_on_a_terminal(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    configure_logs('INFO', 'auto')
    our('info', 'started', code=250)
    assert not lines()[0].startswith('{')


def test_long_word_is_looked_through_once_and_does_not_stop_the_worker(
    events: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('logs.LONGEST_CHARS', 2_000_000)
    configure_logs('INFO', 'json')
    our(
        'info',
        'said',
        reply='x' * 1_000_000 + ' for chris@example.com',
        quotes='"' * 100_000 + ' @',
    )  # hours, squared
    assert events()[0]['reply'].endswith('x for ***@example.com')


@pytest.mark.parametrize('format_', ['json', 'console'])
def test_short_way_writes_what_the_logger_writes(
    lines: Lines, format_: Literal['json', 'console']
) -> None:
    configure_logs('INFO', format_)
    structlog.contextvars.bind_contextvars(email_id=7)
    error = 'no such user chris@example.com'
    fields = {'status': 'sent', 'error': error, 'code': 250}
    structlog.get_logger().warning('rejected', **fields)
    write_line('warning', 'rejected', {**fields, 'error': hide_addresses(error)})
    theirs, ours = (TIMES.sub('', line) for line in lines())
    assert 'chris' not in ours
    assert ours == theirs


@pytest.mark.parametrize(('level', 'shown'), [('INFO', 2), ('WARNING', 1), ('ERROR', 0)])
def test_short_way_heeds_the_level(lines: Lines, level: str, shown: int) -> None:
    configure_logs(level, 'json')
    write_line('info', 'accepted', {})
    write_line('warning', 'rejected', {})
    assert len(lines()) == shown


def test_short_way_heeds_what_others_configured(lines: Lines) -> None:
    configure_logs('INFO', 'json')
    with structlog.testing.capture_logs() as captured:
        write_line('info', 'accepted', {'code': 250})
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    write_line('info', 'accepted', {'code': 251})
    assert captured == [{'event': 'accepted', 'code': 250, 'log_level': 'info'}]
    assert lines() == ["code=251 event='accepted'"]


def test_worker_does_not_load_what_only_terminals_need() -> None:
    program = "import sys, worker; print(sorted({'rich', 'pygments'} & set(sys.modules)))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == '[]\n'


def test_no_value_steers_the_terminal_that_shows_the_log(lines: Lines) -> None:
    configure_logs('INFO', 'console')
    our('info', 'said\x1b[2J', reply='a\x1b]0;owned\x07', hidden='\u202eevil\x9b', deep=['\x1b[2J'])
    logging.getLogger('a.library').warning('said %s', '\x1b[2J')
    told = '\n'.join(
        re.sub(r'\x1b\[[\d;]*m', '', line) for line in lines()
    )  # without our own colours
    assert not re.search(r'[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]', told), told
    assert told.count('x1b[2J') == 3
