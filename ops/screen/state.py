"""Where somebody is on the screen, and what a key does there: no drawing, nothing asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ops.screen.acts import ScreenAct
from ops.screen.lines import ScreenLine, ScreenTarget

LONGEST_REASON = 200
MOVES = {
    'j': 1, 'down': 1, 'k': -1, 'up': -1, 'page-down': 10, ' ': 10, 'page-up': -10,
    'g': -(10**6), 'home': -(10**6), 'G': 10**6, 'end': 10**6,
}  # fmt: skip


@dataclass(slots=True)
class ScreenPage:
    """A page: what it is about, what was read for it, and where the cursor is.

    Attributes:
        word: overview, about, explain, wrong or help.
        lines: What was loaded for it, of pages that are loaded whole; None: not yet.
        rows: E-mails that were loaded for it, of the others.
        cursor: The target that is chosen, or None.
        top: The first line that is seen.
    """

    word: str = 'overview'
    target: ScreenTarget | None = None
    lines: list[ScreenLine] | None = None
    rows: list[dict[str, object]] = field(default_factory=list)
    cursor: ScreenTarget | None = None
    top: int = 0

    def move(self, lines: Sequence[ScreenLine], by: int, room: int) -> None:
        """Choose another line, or scroll where none can be chosen.

        Args:
            room: How many lines are seen at once.
        """
        at = [number for number, line in enumerate(lines) if line.target is not None]
        if not at:
            self.top = min(max(self.top + by, 0), max(len(lines) - room, 0))
            return
        chosen = self.chosen(lines)
        position = at.index(chosen) if chosen in at else 0
        number = at[min(max(position + by, 0), len(at) - 1)]
        self.cursor = lines[number].target
        first = 0 if number == at[0] else number
        last = len(lines) - 1 if number == at[-1] else number
        self._show(first, last if last - number < room else number, room)

    def _show(self, first: int, last: int, room: int) -> None:
        if last >= self.top + room:
            self.top = last - room + 1
        self.top = min(self.top, first)

    def chosen(self, lines: Sequence[ScreenLine]) -> int | None:
        """Return the line that the cursor is at, the first of its target; None: there is none."""
        found = (n for n, line in enumerate(lines) if line.target and line.target == self.cursor)
        number = next(found, None)
        if number is None:  # it is gone, or nothing was chosen yet
            number = next((n for n, line in enumerate(lines) if line.target is not None), None)
            self.cursor = None if number is None else lines[number].target
        return number

    def settle(self, lines: Sequence[ScreenLine], room: int) -> None:
        """Keep the cursor in sight when lines came or went, or the terminal got smaller."""
        self.top = min(max(self.top, 0), max(len(lines) - room, 0))
        if (number := self.chosen(lines)) is not None and room > 0:
            is_first = not any(line.target for line in lines[:number])
            self._show(0 if is_first and number < room else number, number, room)


@dataclass(slots=True)
class ScreenQuestion:
    """An act that is asked about, and the reason as far as it is typed."""

    act: ScreenAct
    typed: str = ''

    def press(self, key: str) -> bool | None:
        """Take a key. Returns whether to do it; None: it is not decided yet."""
        if key in ('escape', 'interrupt'):
            return False
        if not self.act.wants_reason:
            return True if key == 'y' else False if key in ('n', 'enter', 'q') else None
        if key == 'enter':
            return True if self.typed.strip() else None
        if key == 'backspace':
            self.typed = self.typed[:-1]
        elif len(key) == 1 and len(self.typed) < LONGEST_REASON:
            self.typed += key
        return None
