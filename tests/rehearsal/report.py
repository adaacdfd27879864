"""What a run prints: a table, and every broken promise with its e-mails."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = (
    'variant', 'must be sent', 'sent', 'lost', 'doubled', 'by SMTP', 'held', 'too early',
    'a month old', 'unwanted',
    'errors', 'rows deleted', 'seconds',
)  # fmt: skip
LEGEND = (
    'by SMTP: doubled because the old worker was killed between the answer to the message and its '
    'record of it. '
    'held: kept for an operator at the take-over. a month old: sent, though nobody released them. '
    'unwanted: given up, cancelled, sent before or due tomorrow, and sent. errors: of the '
    'application and its ORM, and '
    'tasks of Celery that failed. rows deleted: of the application, in its own tables.'
)


@dataclass
class Row:
    """One line of the table; whatever is in `problems` makes the run fail."""

    variant: str
    must: int = 0
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    forced: int = 0
    held: int = 0
    early: int = 0
    old_sent: int = 0
    unwanted: int = 0
    errors: int = 0
    deleted: int = 0
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the line's cells."""
        counts = (
            self.must,
            self.sent,
            self.lost,
            self.doubled,
            self.forced,
            self.held,
            self.early,
            self.old_sent,
        )
        rest = (self.unwanted, self.errors, self.deleted)
        return [self.variant, *(f'{count:,}' for count in counts + rest), f'{self.took_s:.0f}']


def print_table(console: Console, rows: Sequence[Row], title: str) -> None:
    """Print the table, then what is to be said about its lines."""
    table = Table(
        title=title, box=box.SIMPLE, caption=LEGEND, caption_justify='left', title_justify='left'
    )
    for column in COLUMNS:
        table.add_column(column, justify='left' if column == 'variant' else 'right')
    for row in rows:
        table.add_row(*row.cells(), style='red' if row.problems else None)
    console.print(table)
    for row in rows:
        for note in row.notes:
            console.print(f'{row.variant}: {note}', markup=False, highlight=False)
    for row in rows:
        for problem in row.problems:
            console.print(
                f'FAILED {row.variant}: {problem}', style='red', markup=False, highlight=False
            )
