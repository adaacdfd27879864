"""How many bytes of large e-mails may be in memory at once.

Each waits for its share before its content is fetched.
"""

import asyncio
import contextlib
import os
import resource
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

# An e-mail takes ten times its size while it is rendered (2026-11), and there is more than the
# large ones.
SHARE_OF_MEMORY = 16
LEAST_BYTES, MOST_BYTES = 16 * 1024 * 1024, 256 * 1024 * 1024
CGROUPS = Path('/sys/fs/cgroup')
MAX_WAITING = 100  # those beyond count as under way, or are given back: a kill delays all that wait


def memory_limit_bytes(own_cgroup: str, cgroups: Path = CGROUPS) -> int:
    """Return how much memory this process may take.

    The least of what its cgroup and those around it, its own limits and the machine allow.

    Args:
        own_cgroup: The text of /proc/self/cgroup.
    """
    limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits += [limit for limit in own if limit != resource.RLIM_INFINITY]
    for line in own_cgroup.splitlines():
        _, controllers, path = line.split(':', 2)
        if controllers not in ('', 'memory'):
            continue
        root, name = (
            (cgroups / 'memory', 'memory.limit_in_bytes')
            if controllers
            else (cgroups, 'memory.max')
        )
        directory = root / path.lstrip('/')
        for place in (directory, *directory.parents):
            with contextlib.suppress(OSError, ValueError):  # 'max', or not ours to read
                limits.append(int((place / name).read_text()))
            if place == root:
                break
    return min(limits)


def default_bytes_in_flight() -> int:
    """Return the budget that suits the memory of this process."""
    try:
        own_cgroup = Path('/proc/self/cgroup').read_text()
    except OSError:  # not Linux
        own_cgroup = ''
    return max(LEAST_BYTES, min(memory_limit_bytes(own_cgroup) // SHARE_OF_MEMORY, MOST_BYTES))


class BytesInFlight:
    """A budget that large e-mails share, in the order of coming.

    An e-mail that is larger than the whole budget goes alone.

    Attributes:
        waiting: The tasks that wait for their share: they are claimed, and hold no content yet.
        on_change: Called when a task begins to wait, or waits no more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.on_change: Callable[[], None] = lambda: None
        self.taken_bytes = 0
        self.waiting: set[asyncio.Task[object]] = set()
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def share(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes of the budget; wait until they are free."""
        wanted = min(size_bytes, self.limit_bytes)
        if self._queue or self.taken_bytes + wanted > self.limit_bytes:
            await self._wait(wanted)
        else:
            self.taken_bytes += wanted
        try:
            yield
        finally:
            self._give_back(wanted)

    async def _wait(self, wanted: int) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - somebody awaits this
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append((wanted, admitted))
        self.waiting.add(task)
        self.on_change()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():  # given and cancelled at once
                self._give_back(wanted)
            raise
        finally:
            self.waiting.discard(task)
            if not admitted.done() or admitted.cancelled():  # whoever stands behind may fit
                self._queue = deque(entry for entry in self._queue if entry[1] is not admitted)
                self._admit()
            self.on_change()

    def _give_back(self, wanted: int) -> None:
        self.taken_bytes -= wanted
        self._admit()

    def _admit(self) -> None:
        while self._queue:
            wanted, admitted = self._queue[0]
            if not admitted.done() and self.taken_bytes + wanted > self.limit_bytes:
                break
            self._queue.popleft()
            if not admitted.done():
                self.taken_bytes += wanted
                admitted.set_result(None)
