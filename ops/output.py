"""The two forms of an answer: a JSON document, or tables for people. Neither lets data steer the terminal."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Table

from logs import hide_addresses, visible_lines
from mail_outbox.envelope import BY_LIFE
from reporting.wording import as_json, because, cell, counted, fault, length, megabytes

__all__ = [
    'as_json',
    'because',
    'cell',
    'counted',
    'fault',
    'hide_addresses',
    'hide_recipient',
    'length',
    'make_console',
    'megabytes',
    'percent',
    'print_table',
    'reply_code',
    'say',
    'tried',
]

PIPE_WIDTH = 500  # rows stay lines
DOMAIN = re.compile(r'@([\w.-]+)')


class HarmlessConsole(Console):
    """The last gate: whatever a command prints, only rich's own styles steer the terminal."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            Segment(visible_lines(text), style) if not control else Segment(text, style, control)
            for text, style, control in buffer
        )

    def on_broken_pipe(self) -> None:
        """Leave the end of a pipe to whoever runs the command; rich would exit with 1, our status of trouble."""
        self.quiet = True
        raise BrokenPipeError


def make_console() -> Console:
    """Return where tables go: as wide as the terminal, or wide enough for a pipe, never interpreting what it prints."""
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


def percent(rate: float | None) -> str:
    """Return a share of one for people."""
    return '-' if rate is None else f'{rate:.1%}'


def reply_code(row: Mapping[str, Any]) -> str | None:
    """Return what a relay replied in digits: 550 5.1.1, or as much of it as there is."""
    return ' '.join(str(row[name]) for name in ('smtp_code', 'enhanced_code') if row[name]) or None


def tried(attempts: int, max_attempts: int) -> str:
    """Return the number of attempts for people: 3 of 5; 3 where no number ends them."""
    return f'{attempts} of {max_attempts}' if max_attempts < BY_LIFE else str(attempts)


def hide_recipient(recipient: str | None) -> str:
    """Return a recipient field without names and local parts."""
    if not recipient:  # an adopted table may have none
        return '-'
    return ', '.join(f'***@{domain}' for domain in DOMAIN.findall(recipient)) or '***'
