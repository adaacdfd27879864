"""A queue in which urgent mail goes first, and nothing waits for ever."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar('T')

HIGH, NORMAL, LOW = 0, 1, 2  # as the outbox's column `priority` has them
# So often others may go before one that waits; then it is next. Mail that is all urgent leaves a
# tenth to the rest.
MOST_PASSED = 9


class FairQueue(Generic[T]):
    """What waits, by priority, then in the order of coming. True when anything does."""

    def __init__(self) -> None:
        self._classes: tuple[deque[T], ...] = (deque(), deque(), deque())
        self._count = 0
        # How often the first of each class had to let another one go before it.
        self._passed = [0, 0, 0]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for waiting in self._classes:
            yield from waiting

    def append(self, item: T, priority: int) -> None:
        """Put an item behind those of its priority."""
        self._count += 1
        self._classes[priority].append(item)

    def appendleft(self, item: T, priority: int) -> None:
        """Put an item before all others of its priority: it has waited already."""
        self._count += 1
        self._classes[priority].appendleft(item)

    def ahead_of(self, priority: int) -> int:
        """Return how many go before one that comes now."""
        return sum(map(len, self._classes[: priority + 1]))

    @property
    def next_priority(self) -> int:
        """The priority of the item that is next.

        Raises:
            IndexError: nothing waits.
        """
        for priority, waiting in enumerate(self._classes):
            if len(waiting) == self._count:  # all are of one priority, as mostly
                return priority
        present = [priority for priority in (HIGH, NORMAL, LOW) if self._classes[priority]]
        for priority in present[1:]:
            if self._passed[priority] >= MOST_PASSED:
                return priority
        return present[0]

    def popleft(self) -> T:
        """Take out the item that is next.

        Raises:
            IndexError: nothing waits.
        """
        chosen = self.next_priority
        item = self._classes[chosen].popleft()
        self._passed[chosen] = 0
        self._count -= 1
        if len(self._classes[chosen]) < self._count:
            for priority in range(chosen + 1, len(self._classes)):
                self._passed[priority] += bool(self._classes[priority])
        return item

    def take_all(self) -> list[T]:
        """Empty the queue; return what was in it."""
        everything, self._count = list(self), 0
        for waiting in self._classes:
            waiting.clear()
        return everything


def known_priority(stored: object) -> int:
    """Read the outbox's column; what it should not hold is ordinary mail."""
    return stored if isinstance(stored, int) and HIGH <= stored <= LOW else NORMAL
