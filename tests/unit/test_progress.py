"""How far a long change is: told on a terminal, and ended by Ctrl-C after what is under way."""

import io
import signal
import sys

import pytest

from ops import progress
from ops.progress import ProgressLine, StepProgress, progress_line
from reporting.problems import ProblemError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    return now


@pytest.fixture
def told():
    made = ProgressLine()
    yield made
    made.end()


def test_line_tells_how_many_how_fast_and_how_long_still():
    assert progress_line(15_000, 60_000, 2.0) == '15000 of 60000, 7500/s, 6 s left'
    assert progress_line(0, 60_000, 2.0) == '0 of 60000, 0/s'
    assert progress_line(1500, None, 2.0) == '1500, 750/s'
    assert progress_line(70, 60, 2.0) == '70 of 60, 35/s'  # the total was an estimate


def test_terminal_is_told_after_a_second_and_left_clean(clock, told, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    for seconds, done in ((0, 0), (0.9, 500), (1.5, 1000), (1.6, 1500), (2.0, 2000)):
        clock[0] = 100 + seconds
        assert told(done, 60_000)
    told.end()
    shown = sys.stderr.getvalue()
    assert shown.count('of 60000') == 2  # not more often than every 0.2 s
    assert '2000 of 60000, 1000/s, 58 s left' in shown
    assert shown.endswith('\r\x1b[K')


def test_what_is_no_terminal_is_told_nothing(clock, told, capsys):
    for clock[0] in (100, 110, 120):
        assert told(1, 60_000)
    told.end()
    assert capsys.readouterr().err == ''


@pytest.fixture
def interrupts():
    """What Ctrl-C does: the tests may run where it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_first_interrupt_ends_it_after_this_batch_and_the_second_one_at_once(told, interrupts):
    interrupts(signal.default_int_handler)
    assert told(0, 1000)
    signal.raise_signal(signal.SIGINT)
    assert not told(500, 1000)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    told.end()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_stays_ignored_where_it_is(told, interrupts):
    interrupts(signal.SIG_IGN)
    assert told(0, 1000)
    signal.raise_signal(signal.SIGINT)
    assert told(500, 1000)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_it_after_this_batch_too(told, number):
    inherited = signal.signal(number, signal.SIG_DFL)  # the tests may run where it is ignored
    try:
        assert told(0, 1000)
        signal.raise_signal(number)
        assert not told(500, 1000)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_steps_are_lines_and_what_is_counted_within_one_is_a_line_that_moves(clock, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    steps = StepProgress()
    steps('added 3 columns')
    for clock[0], done in ((100, 0), (102, 10_000), (104, 20_000)):
        steps(f'took over {done} e-mails', done, 60_000)
    steps('built the index')
    steps.end()
    shown = sys.stderr.getvalue()
    assert shown.startswith('added 3 columns\n')
    assert '20000 of 60000, 5000/s, 8 s left' in shown
    assert shown.endswith('\r\x1b[Kbuilt the index\n')


def test_interrupted_step_ends_with_what_was_done(clock, interrupts):
    interrupts(signal.default_int_handler)
    steps = StepProgress()
    steps('took over 0 e-mails', 0, 1000)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(ProblemError) as ended:
        steps('took over 500 e-mails', 500, 1000)
    assert ended.value.problem.what == 'interrupted: took over 500 e-mails'
    assert ended.value.problem.exit_status == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_log_of_a_long_step_gets_a_line_twice_a_minute(clock, capsys):
    steps = StepProgress()
    for clock[0] in (100, 110, 131, 140, 162):
        steps(f'at {clock[0]}', clock[0], 1000)
    steps.end()
    assert capsys.readouterr().err == 'at 131\nat 162\n'
