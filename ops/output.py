"""Tables and sentences for people. None of what they show can steer the terminal.

Colour tells how grave something is, on a terminal and without NO_COLOR. What is too wide for a
narrow terminal is printed as blocks: nothing is cut.
"""

import itertools
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from logs import visible, visible_lines
from ops.parser import as_typed
from reporting.problems import Level, Problem
from reporting.wording import cell

PIPE_WIDTH = 500  # rows stay lines
BLOCKS_BELOW = 100  # columns of a terminal in which a wide table becomes blocks
MOST_LINES = 3  # that a table's widest cell may take, before it becomes blocks
BETWEEN = 2  # spaces
NOTHING = ('', '-')
WORD = 20  # columns of a table so narrow are not wrapped

LEVEL_STYLES = {Level.ACT: 'bold red', Level.LOOK: 'yellow', Level.OK: 'green'}
# What a cell's word means, in the columns that say how something is.
TELLING = frozenset({'', 'status', 'state', 'outcome', 'level', 'served'})
MEANINGS: Mapping[str, Level] = {
    **dict.fromkeys(
        ('ok', 'up', 'sent', 'accepted', 'running', 'success', 'ready', 'yes', 'healthy'), Level.OK
    ),
    **dict.fromkeys(
        ('look', 'warning', 'paused', 'held', 'uncertain', 'deferred', 'degraded', 'draining',
         'cooling down', 'sent in part', 'expired', 'skipped', 'missed', 'no'),
        Level.LOOK,
    ),
    **dict.fromkeys(
        ('act', 'error', 'down', 'failed', 'dead', 'rejected', 'lost', 'unhealthy'), Level.ACT
    ),
}  # fmt: skip


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


def make_console(stream: TextIO | None = None) -> Console:
    """Return where tables go: as wide as the terminal or COLUMNS, or wide enough for a pipe.

    It prints everything as it is.
    """
    file = stream or sys.stdout
    is_narrow = file.isatty() or os.environ.get('COLUMNS', '').isdigit()
    return HarmlessConsole(
        file=file,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if is_narrow else PIPE_WIDTH,
    )


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Print a titled table, or that there is nothing in it.

    Where it does not fit, the widest column is wrapped, or each row becomes a block.
    """
    title, columns = cell(title), [cell(column) for column in columns]
    cells = [[as_typed(cell(value)) for value in row] for row in rows]
    fits = _has_room if console.width >= BLOCKS_BELOW else _fits
    if cells and any(columns) and not (fits is _has_room and fits(columns, cells, console.width)):
        columns, cells = _without_empty(columns, cells)
    if not cells:
        console.print(f'{title}: none', style='bold')
    elif not any(columns) or fits(columns, cells, console.width):
        console.print(_table(title, columns, cells))
    else:
        console.print(title, style='bold')
        for row in cells:
            console.print(_block(columns, row, console.width))
    console.print()


def _without_empty(
    columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Leave out the columns in which no row says anything."""
    kept = [at for at in range(len(columns)) if any(row[at] not in NOTHING for row in cells)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in cells]


def widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide each column has to be for nothing to be wrapped."""
    return [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]


def _has_room(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table keeps to a width, its wide columns wrapped, and no word of others cut."""
    wide = widths(columns, cells)
    return sum(min(size, WORD) for size in wide) + BETWEEN * (len(wide) - 1) <= width


def _fits(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table keeps to a width, its widest column wrapped into few lines."""
    wide = widths(columns, cells)
    widest = wide.index(max(wide))
    words = (len(word) for row in cells for word in row[widest].split())
    room = width - (sum(wide) - max(wide) + BETWEEN * (len(wide) - 1))
    return room >= max(wide) or (room * MOST_LINES >= max(wide) and room >= max(words, default=0))


def _table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title, title_justify='left', title_style='bold', box=None, pad_edge=False,
        show_header=any(columns),
    )  # fmt: skip
    for position, (column, wide) in enumerate(zip(columns, widths(columns, cells), strict=True)):
        stands_right = all(is_number(row[position]) for row in cells)
        table.add_column(
            column, justify='right' if stands_right else 'left', overflow='fold',
            no_wrap=wide <= WORD,
        )  # fmt: skip
    for row in cells:
        table.add_row(*(Text(value, style_of(name, value)) for name, value in _named(columns, row)))
    return table


def _block(columns: Sequence[str], row: Sequence[str], width: int) -> Text:
    """Return a row as lines of names and values, those that say something."""
    block, used = Text(), width
    for name, value in _named(columns, row):
        if value in NOTHING:
            continue
        pair = Text(f'{name} ' if name else '', 'dim')
        pair.append(value, style_of(name, value) or ('' if block else 'bold'))
        if used + BETWEEN + pair.cell_len <= width:
            block.append('  ')
        else:
            used = BETWEEN if not block else 2 * BETWEEN
            block.append(f'{chr(10) if block else ""}{" " * used}')
            if used + pair.cell_len > width:
                pair = Text(f'\n{" " * 3 * BETWEEN}').join(_wrapped(pair, width - 3 * BETWEEN))
        block.append_text(pair)
        used += BETWEEN + pair.cell_len
    return block


def _wrapped(text: Text, width: int) -> Iterator[Text]:
    """Break a long text where its words end."""
    lines = textwrap.wrap(text.plain, width)
    ends = list(itertools.accumulate(len(line) + 1 for line in lines))[:-1]
    for line in text.divide(ends):
        line.rstrip()
        yield line


def _named(columns: Sequence[str], row: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(columns, row, strict=True)


def is_number(text: str) -> bool:
    """Whether a cell is a number, or stands for none: such columns stand right."""
    return text == '-' or text.replace('.', '', 1).isdigit()


def style_of(column: str, value: str) -> str:
    """Return how a cell is shown: by what it means."""
    level = MEANINGS.get(value) if column in TELLING else None
    return '' if level is None else LEVEL_STYLES[level]


def say(
    console: Console, *texts: str, style: str | None = None, soft_wrap: bool | None = None
) -> None:
    """Print text, each line of it harmless; without text an empty line."""
    lines = (as_typed(visible_lines(text)) for text in texts)
    console.print(*lines, style=style, soft_wrap=soft_wrap)


def told_state(email: Mapping[str, Any]) -> str:
    """Return an e-mail's state; dead is what failed and is not tried again."""
    is_dead = email['status'] == 'failed' and email['is_final']
    return 'dead' if is_dead else str(email['status'])


def print_unchanged(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print which e-mails were left as they are, and why."""
    if rows:
        reasons = ((row['id'], row['reason']) for row in rows)
        print_table(console, 'Not changed', ('id', 'why'), reasons)


def print_problems(command: str, problems: Sequence[Problem]) -> None:
    """Print problems to stderr, each in a line; on a terminal coloured, and wrapped at words."""
    console = make_console(sys.stderr)
    for problem in problems:
        line = f'ops {command}: {visible(problem.line)}'
        say(console, line, style=LEVEL_STYLES[problem.level], soft_wrap=not console.is_terminal)
