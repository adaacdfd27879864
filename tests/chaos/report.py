"""What a run prints: a table for people, the same in markdown, and every broken promise with its
e-mails.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = (
    'scenario',
    'e-mails',
    'faults',
    'delivered',
    'lost',
    'duplicates',
    'outside window',
    'recovery median',
    'worst',
    'seconds',
)
LEGEND = (
    'faults: kills, closed connections, outages or restarts. '
    'lost: not sent, and not in the state the scenario expects. '
    'outside window: duplicates without an uncertain or lost attempt in email_attempts. '
    'recovery, seconds, over the e-mails that the fault held up: from the kill, or from the end '
    'of the outage, to the '
    'delivery; for faults of Redis, which stop nothing, from being queued (or the fault, if '
    'later) to the delivery.'
)


@dataclass
class Row:
    """One line of the table. Times in seconds."""

    scenario: str
    emails: int = 0
    faults: int = 0
    delivered: int = 0
    lost: int = 0
    duplicates: int = 0
    outside: int = 0
    recovery_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def failed(self) -> bool:
        return bool(self.problems)

    def cells(self) -> list[str]:
        if self.skipped:
            return [self.scenario, 'skipped: ' + self.skipped, *[''] * (len(COLUMNS) - 2)]
        recovery = sorted(self.recovery_s)
        times = (
            [f'{statistics.median(recovery):.1f}', f'{recovery[-1]:.1f}']
            if recovery
            else ['-', '-']
        )
        counts = (
            self.emails,
            self.faults,
            self.delivered,
            self.lost,
            self.duplicates,
            self.outside,
        )
        return [self.scenario, *(f'{count:,}' for count in counts), *times, f'{self.took_s:.0f}']


def print_table(console: Console, rows: Sequence[Row], title: str) -> None:
    table = Table(
        title=title, box=box.SIMPLE, caption=LEGEND, caption_justify='left', title_justify='left'
    )
    for column in COLUMNS:
        table.add_column(column, justify='left' if column == 'scenario' else 'right')
    for row in rows:
        table.add_row(*row.cells(), style='red' if row.failed else 'dim' if row.skipped else None)
    console.print(table)
    for row in rows:
        for note in row.notes:
            console.print(f'{row.scenario}: {note}', markup=False, highlight=False)
    for row in rows:
        for problem in row.problems:
            console.print(
                f'FAILED {row.scenario}: {problem}', style='red', markup=False, highlight=False
            )


def markdown(rows: Sequence[Row], title: str) -> str:
    """Return the same as markdown, for the documentation."""
    lines = [
        title,
        '',
        '| ' + ' | '.join(COLUMNS) + ' |',
        '|---' + '|--:' * (len(COLUMNS) - 1) + '|',
    ]
    lines += ['| ' + ' | '.join(row.cells()) + ' |' for row in rows]
    lines += ['', LEGEND]
    notes = [f'- {row.scenario}: {note}' for row in rows for note in row.notes]
    notes += [
        f'- FAILED {row.scenario}: {problem.splitlines()[0]}'
        for row in rows
        for problem in row.problems
    ]
    return '\n'.join([*lines, '', *notes] if notes else lines) + '\n'
