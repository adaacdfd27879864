"""`ops schedule`: when an e-mail that is deferred is tried again."""

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from ops import schedule
from ops.__main__ import make_parser
from ops.running import answer
from settings import Settings


def asked(*arguments: str, **values: Any) -> dict[str, Any]:
    options = make_parser().parse_args(['schedule', *arguments])
    given = asyncio.run(answer(Settings(_env_file=None, **values), schedule, options))
    assert given.exit_status == 0
    return given.document


def test_schedule_of_the_defaults_reaches_over_the_day_mail_lives() -> None:
    document = asked()
    after_s = [attempt['after_s'] for attempt in document['attempts']]
    assert after_s[:6] == [0, 60, 180, 420, 900, 1860]
    assert 0.99 * 86400 < after_s[-1] < 86400
    assert (document['max_attempts'], document['expires_after_s'], document['ends']) == (
        None,
        86400,
        'expires',
    )
    assert [attempt['attempt'] for attempt in document['attempts']] == list(
        range(1, len(after_s) + 1)
    )


@pytest.mark.parametrize(
    ('arguments', 'values'),
    [((), {'email_max_attempts': 5}), (('--max-attempts', '5'), {'email_max_attempts': 9})],
)
def test_schedule_with_a_number_of_attempts_ends_with_it(
    arguments: tuple[str, ...], values: Any
) -> None:
    document = asked(*arguments, **values)
    assert [attempt['after_s'] for attempt in document['attempts']] == [0, 60, 180, 420, 900]
    assert (document['max_attempts'], document['ends']) == (5, 'exhausted')


def test_schedule_follows_the_delays_of_the_settings() -> None:
    document = asked('--hours', '1', email_retry_base_delay_s=600, email_retry_max_delay_s=900)
    assert [attempt['after_s'] for attempt in document['attempts']][:4] == [0, 600, 1500, 2400]


def test_schedule_of_mail_that_does_not_expire_has_an_end_as_well() -> None:
    document = asked('--no-expiry')
    assert (document['ends'], document['expires_after_s']) == ('exhausted', None)
    assert 82800 < document['attempts'][-1]['after_s'] <= 86400


@pytest.mark.parametrize(
    'arguments', [('--hours', '0'), ('--hours', 'nan'), ('--max-attempts', '0')]
)
def test_schedule_of_no_sensible_life_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(['schedule', *arguments])


def test_schedule_is_printed_with_how_it_ends() -> None:
    console = Console(file=io.StringIO(), width=200)
    schedule.render(asked(), console)
    text = console.file.getvalue()
    assert '63 min' in text
    assert 'It expires 24.0 h after it was queued.' in text
    assert 'costs no attempt' in text
