"""Tables and sentences for people. None of what they show can steer the terminal."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Table

from logs import visible_lines
from reporting.wording import cell

PIPE_WIDTH = 500  # rows stay lines


class HarmlessConsole(Console):
    """The last gate: whatever a command prints, only rich's own styles steer the terminal."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            Segment(visible_lines(text), style) if not control else Segment(text, style, control)
            for text, style, control in buffer
        )

    def on_broken_pipe(self) -> None:
        """Leave the end of a pipe to the command; rich would exit with 1, as for a problem."""
        self.quiet = True
        raise BrokenPipeError


def make_console() -> Console:
    """Return where tables go: as wide as the terminal, or wide enough for a pipe.

    It prints everything as it is.
    """
    return HarmlessConsole(
        file=sys.stdout,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
    )


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Print a titled table, or that there is nothing in it."""
    title, columns = cell(title), [cell(column) for column in columns]
    table = Table(
        *columns,
        title=title,
        title_justify='left',
        title_style='bold',
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    if table.row_count:
        console.print(table)
    else:
        console.print(f'{title}: none', style='bold')
    console.print()


def say(
    console: Console, *texts: str, style: str | None = None, soft_wrap: bool | None = None
) -> None:
    """Print text, each line of it harmless; without text an empty line."""
    console.print(*map(visible_lines, texts), style=style, soft_wrap=soft_wrap)


def print_unchanged(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print which e-mails were left as they are, and why."""
    if rows:
        reasons = ((row['id'], row['reason']) for row in rows)
        print_table(console, 'Not changed', ('id', 'why'), reasons)
