"""What processes and their descendants use.

CPU seconds, and memory as the kernel shares it out (PSS).
"""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from dev.processes import process_tree

SAMPLE_EVERY_S = 0.5


def cpu_s(pid: int) -> float:
    """Return user and system CPU seconds of the tree so far.

    Children that have ended and were waited for are included.
    """
    total_s = 0.0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


class Usage:
    """CPU from the moment it is made."""

    def __init__(self, roles: Mapping[str, Sequence[int]]) -> None:
        """Begin to count.

        Args:
            roles: Name -> pids; each pid stands for its whole tree.
        """
        self._roles = roles
        self._machine = psutil.cpu_times()
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {role: sum(map(cpu_s, pids)) for role, pids in self._roles.items()}

    def taken(self) -> tuple[dict[str, float], float]:
        """Return CPU seconds by role, and the busy fraction of the whole machine."""
        now, machine = self._now(), psutil.cpu_times()
        idle_s = machine.idle + machine.iowait - self._machine.idle - self._machine.iowait
        all_s = sum(machine[:8]) - sum(self._machine[:8])  # guests are counted as users already
        busy = 1 - idle_s / all_s if all_s > 0 else 0.0
        return {role: now[role] - self._before[role] for role in now}, busy


def pss_bytes(pid: int) -> int:
    """Return the tree's proportional set size: pages shared by n processes count 1/n in each.

    0 where unknown.
    """
    total = 0
    for process in process_tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f'/proc/{process.pid}/smaps_rollup').read_text().splitlines():
                if line.startswith('Pss:'):
                    total += int(line.split()[1]) * 1024
    return total


class PeakMemory:
    """Samples the PSS of some trees in a thread while entered.

    Attributes:
        peak_bytes: The largest sample so far.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.peak_bytes = 0
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name='bench-memory', daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take()  # the end is where most is held

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self._take()

    def _take(self) -> None:
        self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, self._pids)))
