"""When somebody is told that a service is down, and when not."""

from datetime import UTC, datetime, timedelta

import pytest

from db.alerts import AlertState
from delivery.alerts.verdict import after_telling, next_state

START = datetime(2026, 11, 30, 12, tzinfo=UTC)


def notices(checks: str, *, remind_min: int = 60, deaf: str = '', at_once: bool = False) -> str:
    """Return what is told of checks a minute apart: d(own), s(till), u(p), or a dot for nothing.

    Args:
        checks: A letter each: x failed, o well.
        deaf: A letter each: x where no channel takes it.
    """
    state: AlertState | None = None
    said = ''
    for minute, check in enumerate(checks):
        now = START + timedelta(minutes=minute)
        state, notice = next_state(
            state, 'smtp_primary', 'gone' if check == 'x' else None, now,
            remind_after=timedelta(minutes=remind_min), at_once=at_once,
        )  # fmt: skip
        said += notice.kind.value[0] if notice else '.'
        if notice and deaf[minute : minute + 1] != 'x':
            state = after_telling(state, notice, now)
    return said


@pytest.mark.parametrize(
    ('checks', 'said'),
    [
        ('oooo', '....'),
        ('ox', '..'),
        ('oxooooxooo', '..........'),  # one failure now and then
        ('oxxx', '..d.'),
        ('oxxoooo', '..d...u'),
        ('oxxoooxoooo', '..d.......' + 'u'),  # not up for long enough in between
        ('xoxoxoxoxoxoxo', '....d.........'),  # comes and goes: one alert, and no recovery
        ('xxoooooxxoooo', '.d...u..d...u'),
    ],
)
def test_one_alert_and_one_recovery_for_each_outage(checks: str, said: str) -> None:
    assert notices(checks) == said


def test_what_stays_down_is_told_again_after_an_hour_and_no_sooner() -> None:
    said = notices('x' * 130)
    assert [place for place, letter in enumerate(said) if letter != '.'] == [1, 61, 121]
    assert said[61] == said[121] == 's'


def test_what_nobody_could_be_told_is_told_at_the_next_check() -> None:
    assert notices('xxxxx', deaf='.xx') == '.ddd.'
    assert notices('xxoooooo', deaf='.....xx.') == '.d...uuu'


def test_outage_that_nobody_was_told_of_ends_without_a_word() -> None:
    assert notices('xxoooooxxo', deaf='xxxxxxx.') == '.d......d.'


def test_one_check_decides_where_it_is_made_seldom() -> None:
    assert notices('oxxoox', at_once=True) == '.d.u.d'


def test_detail_of_any_length_is_kept_in_part() -> None:
    state, notice = next_state(
        None, 'a', 'x' * 10_000, START, remind_after=timedelta(hours=1), at_once=True
    )
    assert notice is not None
    assert len(state.detail) == len(notice.detail) == 500
