"""Tables for people: on wide and narrow terminals, in pipes, with and without colour."""

import io
import re
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from ops.output import MEANINGS, PIPE_WIDTH, make_console, print_problems, print_table, say
from ops.parser import as_typed
from reporting.problems import Level, Problem

ERROR = 'primary said 550 5.1.1 <***@example.com>: Recipient address rejected; see example.com/5501'
COLUMNS = ('id', 'recipient', 'status', 'attempts', 'code', 'relay', 'error')
ROWS = [
    (101, '***@mail.customers.example.com', 'failed', '3 of 5', '550 5.1.1', None, ERROR),
    (102, '***@example.org', 'dead', '1 of 5', '-', None, 'x' * 300),
    (103, '***@漢字.example', 'uncertain', '2 of 5', '-', None, None),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(columns, rows, width, **options) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False, emoji=False, **options)
    print_table(console, 'E-mails', columns, rows)
    return file.getvalue()


def without_spaces(text: str) -> str:
    return ''.join(text.split())


@pytest.mark.parametrize('width', [40, 60, 80, 99, 100, 160, PIPE_WIDTH])
def test_nothing_is_cut_at_any_width(width):
    shown = printed(COLUMNS, ROWS, width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert '…' not in shown
    for row in ROWS:
        for value in row:
            for word in str(value or '').split():
                assert without_spaces(word) in without_spaces(shown) or width in (100, 160)


def test_wide_table_becomes_blocks_below_100_columns_and_leaves_out_what_says_nothing():
    shown = printed(COLUMNS, ROWS, 80).splitlines()
    assert shown[:4] == [
        'E-mails',
        '  id 101  recipient ***@mail.customers.example.com  status failed',
        '    attempts 3 of 5  code 550 5.1.1',
        '    error primary said 550 5.1.1 <***@example.com>: Recipient address',
    ]
    assert not any('relay' in line for line in shown)


@pytest.mark.parametrize('width', [100, 110, 120, 160])
def test_short_words_are_whole_on_a_wide_terminal_too(width):
    rows = [(1000 + n, f'word-{n}', 'long text ' * 9, 'another ' * 9, 'x' * 19) for n in range(3)]
    shown = printed(('id', 'status', 'subject', 'error', 'code'), rows, width)
    assert max(map(cell_len, shown.splitlines())) <= width
    for n in range(3):
        assert f'{1000 + n}' in shown
        assert f'word-{n}' in shown
    assert shown.count('x' * 19) == 3


def test_table_that_fits_stays_a_table_and_its_numbers_stand_right():
    assert printed(
        ('queue', 'ready', 'served'), [('arq:queue', 5, 'yes'), ('x', 12345, 'no')], 80
    ) == (
        'E-mails                 \n'
        'queue      ready  served\n'
        'arq:queue      5  yes   \n'
        'x          12345  no    \n\n'
    )


def test_long_text_is_wrapped_where_few_lines_are_enough():
    shown = printed(('check', 'what'), [('outbox', 'nobody serves the queue ' * 5)], 80)
    assert shown.splitlines()[1].split() == ['check', 'what']
    assert len(shown.splitlines()) == 5


def test_names_and_values_stay_beside_each_other_and_an_empty_table_says_so():
    assert 'subject  ' + 'word ' * 10 in printed(('', ''), [('subject', 'word ' * 40)], 80)
    assert printed(COLUMNS, [], 80) == 'E-mails: none\n\n'


@pytest.mark.parametrize(
    ('column', 'value', 'colour'),
    [
        ('status', 'failed', '31'), ('outcome', 'accepted', '32'), ('state', 'paused', '33'),
        ('', 'warning', '33'), ('subject', 'failed', None), ('status', 'elsewhere', None),
    ],
)  # fmt: skip
@pytest.mark.parametrize('width', [24, 200])
def test_colour_tells_what_a_word_means(column, value, colour, width, monkeypatch):
    monkeypatch.delenv('NO_COLOR', raising=False)
    rows = [('arq:queue', value)]
    shown = printed(('name', column), rows, width, force_terminal=True, color_system='standard')
    line = next(line for line in shown.splitlines() if value in line)
    assert (f'{colour}m{value}' in line) is (colour is not None)
    monkeypatch.setenv('NO_COLOR', '1')
    plain = printed(('name', column), rows, width, force_terminal=True, color_system='standard')
    assert not any(f'{number}m' in plain for number in (31, 32, 33))
    assert '\x1b[' not in printed(('name', column), rows, width)  # nor in a pipe


def test_every_level_has_words_and_no_word_two_levels():
    assert set(MEANINGS.values()) == set(Level)


def test_console_is_as_wide_as_a_pipe_its_terminal_or_columns(monkeypatch):
    monkeypatch.delenv('COLUMNS', raising=False)
    assert make_console(io.StringIO()).width == PIPE_WIDTH
    monkeypatch.setenv('COLUMNS', '80')
    assert make_console(io.StringIO()).width == make_console(Terminal()).width == 80


@pytest.mark.parametrize(('level', 'colour'), [(Level.ACT, '31'), (Level.LOOK, '33')])
def test_problems_are_lines_on_stderr_coloured_on_a_terminal(level, colour, monkeypatch, capsys):
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    problem = Problem('it is \x1b[2J late ' * 20, 'wait', level=level)
    print_problems('status', [problem])
    assert capsys.readouterr().err == f'ops status: {problem.line}\n'.replace('\x1b', '\\x1b')
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    print_problems('status', [problem])
    assert f'{colour}m' in terminal.getvalue()
    lines = re.sub(r'\x1b\[[\d;]*m', '', terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    told = f'ops status: {problem.line}'.replace('\x1b', '\\x1b')
    assert ' '.join(' '.join(lines).split()) == told  # no word is broken


def test_programs_are_called_as_the_reader_called_this_one(monkeypatch):
    told = 'run `python -m db.migrate`, then `python -m ops retry 7` and `arq worker.HighPriority`'
    assert as_typed(told) == told
    monkeypatch.setattr(sys, 'argv', ['email-worker ops', 'status'])
    file = io.StringIO()
    say(Console(file=file, width=200), told)
    assert file.getvalue() == (
        'run `email-worker migrate`, then `email-worker ops retry 7` '
        'and `email-worker run high_priority`\n'
    )
