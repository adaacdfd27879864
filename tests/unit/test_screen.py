"""The screen of `ops top` without a terminal: keys, cursor, questions, tables, what is old."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.text import Text

from ops.screen.acts import ScreenAct
from ops.screen.keys import keys_in
from ops.screen.lines import ScreenLine, ScreenTarget, sparkline, table_lines, wrapped_lines
from ops.screen.look import FLEET_PARTS, STORED_PARTS, FleetLook, with_older
from ops.screen.overview import head_lines, headline, rate_lines, stale_texts
from ops.screen.state import ScreenPage, ScreenQuestion
from reporting.problems import Problem

AT = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
UNKNOWN = dict.fromkeys((*FLEET_PARTS, *STORED_PARTS))
OUTBOX = {
    'due': 3, 'sending': 0, 'retrying': 0, 'dead': 1, 'held': 0, 'oldest_due_s': 90.0,
    'counted_s': None, 'is_at_least': False,
}  # fmt: skip


@pytest.mark.parametrize(
    ('sent', 'keys'),
    [
        ('jk', ['j', 'k']), ('\x1b[A\x1b[B', ['up', 'down']), ('\x1bOA', ['up']),
        ('\x1b', ['escape']), ('\r', ['enter']), ('\x7f', ['backspace']),
        ('\x1b[5~\x1b[6~', ['page-up', 'page-down']), ('é', ['é']), ('\x1b[200~', []),
        ('\x1b[<0;1;1M', []), ('\x00\x01', []),
    ],
)  # fmt: skip
def test_keys_are_read_as_terminals_send_them(sent, keys):
    assert list(keys_in(sent)) == keys


def lines_of(*names):
    """A table with a header: lines about e-mails of these names."""
    header = ScreenLine(Text('header'))
    return [header, *(ScreenLine(Text(n), ScreenTarget('mail', n)) for n in names)]


def test_cursor_moves_among_what_can_be_chosen_and_stays_in_sight():
    page, lines = ScreenPage(), lines_of(*'abcdefghij')
    page.settle(lines, room=4)
    assert page.cursor.name == 'a'
    for by, name, top in ((1, 'b', 0), (1, 'c', 0), (1, 'd', 1), (100, 'j', 7), (-100, 'a', 0)):
        page.move(lines, by, room=4)
        assert (page.cursor.name, page.top) == (name, top)


def test_cursor_stays_at_its_row_when_others_come_and_goes_to_the_first_when_it_is_gone():
    page = ScreenPage()
    page.move(lines_of('a', 'b', 'c'), 2, room=10)
    page.settle(lines_of('x', 'y', 'a', 'b', 'c'), room=10)
    assert page.cursor.name == 'c'
    page.settle(lines_of('x', 'y'), room=10)
    assert page.cursor.name == 'x'
    page.settle([], room=10)
    assert page.cursor is None


def test_page_without_anything_to_choose_scrolls_and_no_further_than_its_end():
    page, lines = ScreenPage(), [ScreenLine()] * 10
    page.move(lines, 3, room=4)
    assert page.top == 3
    page.move(lines, 100, room=4)
    assert page.top == 6
    page.settle(lines, room=20)  # the terminal got larger
    assert page.top == 0


async def nothing(_: str) -> str:
    return ''


def test_question_is_decided_by_y_alone_and_anything_that_leaves_is_a_no():
    for key, decided in (('y', True), ('n', False), ('escape', False), ('enter', False)):
        assert ScreenQuestion(ScreenAct('Really?', nothing)).press(key) is decided
    assert ScreenQuestion(ScreenAct('Really?', nothing)).press('j') is None


def test_question_that_wants_a_reason_is_decided_by_enter_after_it_was_typed():
    question = ScreenQuestion(ScreenAct('Pause it.', nothing, wants_reason=True))
    assert question.press('enter') is None
    for key in ('y', ' ', 'q', 'x', 'backspace'):
        assert question.press(key) is None
    assert question.typed == 'y q'
    assert question.press('enter') is True
    assert question.press('escape') is False


def test_what_a_server_said_before_stays_with_the_time_since_when():
    fleet, stored = ({part: [] for part in parts} for parts in (FLEET_PARTS, STORED_PARTS))
    first = FleetLook({'at': AT} | fleet | stored)
    later = AT + timedelta(seconds=5)
    away = with_older(FleetLook(UNKNOWN | {'at': later} | stored), first)
    assert (away.document['workers'], away.since) == ([], {'Redis': AT})
    longer = with_older(FleetLook(UNKNOWN | {'at': later + timedelta(seconds=5)}), away)
    assert longer.since == {'Redis': AT, 'PostgreSQL': later}
    assert stale_texts(longer, AT + timedelta(seconds=30)) == [
        'Redis has not answered since 12:00:00 UTC (30 s): workers and queues are of then',
        'PostgreSQL has not answered since 12:00:05 UTC (25 s): mail, rates and pauses are of then',
    ]
    back = with_older(FleetLook({'at': later} | fleet | stored), longer)
    assert back.since == {}


def test_what_was_never_known_stays_unknown():
    look = with_older(FleetLook(UNKNOWN | {'at': AT}), None)
    assert (look.document['workers'], look.since) == (None, {})


@pytest.mark.parametrize('width', [40, 80, 160])
def test_table_leaves_out_what_tells_least_and_cuts_no_row_that_fits(width):
    rows = [(ScreenTarget('mail', str(n)), (n, 'failed', 7, 'primary', 'x' * 60)) for n in range(3)]
    header, *lines = table_lines(
        'id', ('outcome', 'attempt', 'relay', 'error'), rows, width, spare=('attempt', 'relay')
    )
    assert ('relay' in header.text.plain) == (width > 40)
    assert all('failed' in line.text.plain for line in lines)
    assert [line.target.name for line in lines] == ['0', '1', '2']


def test_long_text_is_wrapped_and_nothing_of_it_is_lost():
    text = 'a few words and ' + 'x' * 100
    lines = [line.text.plain for line in wrapped_lines(text, 30)]
    assert max(map(len, lines)) <= 30
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '')


def test_problem_that_is_too_long_for_the_head_says_what_and_where_it_is_told():
    problem = Problem('is away', 'start it, and see ' + 'x' * 80, 'Redis', '127.0.0.1:6379')
    look = FleetLook(UNKNOWN | {'at': AT}, [problem] * 3)
    shown = [line.text.plain for line in head_lines(look, 80, most_problems=1)]
    assert shown[1:3] == [
        'Redis at 127.0.0.1:6379: is away', 'and 2 more; w tells all, and what to do',
    ]  # fmt: skip


def test_headline_takes_two_lines_where_one_is_too_narrow():
    document = UNKNOWN | {'at': AT, 'last_minute': {'accepted': 7}, 'outbox': OUTBOX}
    whole = '12:00:00 UTC | last minute: 7 accepted | outbox: 3 due for 90 s, 1 dead'
    assert headline(document, 80) == [whole]
    assert headline(document, 50) == [
        '12:00:00 UTC | last minute: 7 accepted', 'outbox: 3 due for 90 s, 1 dead',
    ]  # fmt: skip


def test_rates_keep_the_newest_minutes_and_their_sum_where_there_is_little_room():
    document = UNKNOWN | {
        'hour': {'sent': [0] * 30 + [9] * 30, 'deferred': [0] * 60, 'failed': [0] * 60},
        'latency': {'p50_s': 0.04, 'p95_s': 2.0, 'p99_s': 7200.0},
    }
    sent, latency = (line.text.plain for line in rate_lines(document, 40))
    assert len(sent) <= 40
    assert sent.endswith(f'{sparkline([9] * 20)} 270/h')
    assert latency == 'queued to accepted: p50 40 ms, p95 2.0 s, p99 2.0 h'
