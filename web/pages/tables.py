"""Tables of the pages: cells with a meaning, and what may be done about each row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Cell:
    """One value.

    Attributes:
        tone: Its colour, see web.pages.words.TONES; None: no colour.
        note: Smaller, below it.
    """

    value: Any
    tone: str | None = None
    note: str | None = None
    href: str | None = None
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """A link to what may be done, see web.pages.acts.ACTS."""

    word: str
    label: str
    name: str
    kind: str = ''

    @property
    def href(self) -> str:
        """Return the address of the page that asks."""
        pairs = [('name', self.name), *([('kind', self.kind)] if self.kind else [])]
        return f'/act/{self.word}?{urlencode(pairs)}'


@dataclass(slots=True)
class PageTable:
    """A table; empty: what is said instead of no rows."""

    title: str
    columns: Sequence[str]
    empty: str
    rows: list[tuple[Sequence[Cell], Sequence[Act]]] = field(default_factory=list)
    note: str | None = None

    def add(self, cells: Sequence[Cell], acts: Sequence[Act] = ()) -> None:
        """Add a row."""
        self.rows.append((cells, acts))
