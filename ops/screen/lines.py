"""Lines of the screen: text of a known width, and what each line is about."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from ops.output import BETWEEN, is_number, style_of, widths
from ops.parser import as_typed
from reporting.wording import cell

HEIGHTS = ' ▁▂▃▄▅▆▇█'
LONG = 40  # what is longer, such as an error, is cut in a row; opened, all of it is there


@dataclass(frozen=True, slots=True)
class ScreenTarget:
    """What a line is about: it can be opened, and some can be paused or sent again."""

    kind: str  # worker, queue, type, relay, mail
    name: str


@dataclass(frozen=True, slots=True)
class ScreenLine:
    """One line."""

    text: Text = field(default_factory=Text)
    target: ScreenTarget | None = None


def plain_line(text: str, style: str = '') -> ScreenLine:
    """Return a line of harmless text."""
    return ScreenLine(Text(as_typed(cell(text)), style))


def wrapped_lines(text: str, width: int, style: str = '') -> list[ScreenLine]:
    """Return a text in as many lines as it takes."""
    words, lines = as_typed(cell(text)).split(' '), ['']
    for word in words:
        parts = [word[at : at + width] for at in range(0, len(word), max(width, 1))] or ['']
        for part in parts:
            if lines[-1] and len(lines[-1]) + 1 + len(part) > width:
                lines.append('')
            lines[-1] = f'{lines[-1]} {part}' if lines[-1] else part
    return [ScreenLine(Text(line, style)) for line in lines]


def sparkline(values: Sequence[int]) -> str:
    """Return one character for each value, as high as its share of the highest."""
    highest = max(values, default=0) or 1
    return ''.join(HEIGHTS[-(-value * (len(HEIGHTS) - 1) // highest)] for value in values)


def table_lines(
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[ScreenTarget | None, Sequence[Any]]],
    width: int,
    *,
    spare: Sequence[str] = (),
    empty: str = 'none',
) -> list[ScreenLine]:
    """Return a table: a line with its columns, then one a row.

    Args:
        title: Of the first column.
        columns: The names of the others.
        spare: Columns that go where there is no room, the first of them first.
        empty: What is said where there is no row.
    """
    names = (title, *columns)
    kept = [(target, [cell(value) for value in row]) for target, row in rows]
    if not kept:
        return [ScreenLine(Text(f'{title}: {empty}', 'dim'))]
    sizes = widths(names, [row for _, row in kept])
    wide = {name: min(size, LONG) for name, size in zip(names, sizes, strict=True)}
    for name in spare:
        if _needed(wide) > width:
            del wide[name]
    last = list(wide)[-1]
    wide[last] = max(sizes[names.index(last)], 1)  # the last may have what is left
    right = {name for at, name in enumerate(names) if all(is_number(row[at]) for _, row in kept)}
    shape = _Shape(wide, right)
    lines = [ScreenLine(shape.row(dict(zip(names, names, strict=True)), header=True))]
    for target, row in kept:
        lines.append(ScreenLine(shape.row(dict(zip(names, row, strict=True))), target))
    return lines


def _needed(wide: Mapping[str, int]) -> int:
    return sum(wide.values()) + BETWEEN * (len(wide) - 1)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How wide each column is, and which stand right."""

    wide: Mapping[str, int]
    right: AbstractSet[str]

    def row(self, cells: Mapping[str, str], *, header: bool = False) -> Text:
        """Return a row; each cell is cut to its column, and keeps to it."""
        row = Text()
        for name, size in self.wide.items():
            part = Text(cells[name], 'bold' if header else style_of(name, cells[name]))
            part.truncate(size, overflow='ellipsis')
            part.align('right' if name in self.right else 'left', size)
            if row:
                row.append(' ' * BETWEEN)
            row.append_text(part)
        return row
