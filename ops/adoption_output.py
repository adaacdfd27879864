"""What `python -m db.migrate` prints of an adoption: what comes, and what was done."""

from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console

from db.adoption.forecast import FATES, Expected
from db.adoption.undo import STAYS
from ops.output import print_table, say
from reporting.wording import length


def print_forecast(console: Console, expected: Sequence[Expected], hold_after: timedelta) -> None:
    """Print what the first start will do."""
    rows = (
        (e.status, e.emails, e.oldest_due_at, e.first_id, f'{e.fate}: {FATES[e.fate]}')
        for e in expected
    )
    print_table(
        console,
        'What the first start does',
        ('status', 'e-mails', 'oldest due at', 'id', 'then'),
        rows,
    )
    if any(
        e.status and e.fate.startswith('sent') and 'failed' in e.status.lower() for e in expected
    ):
        say(
            console,
            'Note: here `failed` with attempts left and a next_retry_at means: '
            'sent by itself when due.',
        )
    if any(e.fate == 'held' for e in expected):
        say(
            console,
            f'Due longer ago than {length(hold_after.total_seconds())} '
            '(ADOPTION_HOLD_AFTER_HOURS) is held, not sent.',
        )


def print_taken(console: Console, states: dict[str, int]) -> None:
    """Print what a take-over did."""
    print_table(console, 'Taken over', ('state', 'e-mails'), sorted(states.items()))
    if states.get('held'):
        say(
            console,
            '`python -m ops held ls` shows what is held; '
            '`ops held release` and `ops held cancel` decide.',
        )
    if states.get('uncertain'):
        say(console, '`python -m ops resolve` decides about what was being sent.')
    if states.get('failed'):
        say(console, '`failed` with attempts left and a next_retry_at is sent by itself when due.')


def print_given_back(console: Console, states: dict[str, int]) -> None:
    """Print what the way back did."""
    print_table(console, 'Given back', ('state', 'e-mails'), sorted(states.items()))
    if states.get('uncertain'):
        say(
            console,
            'What is uncertain may have been delivered: it shows failed, without an attempt left.',
        )
    for line in STAYS:
        say(console, f'{line[0].upper()}{line[1:]}.')
