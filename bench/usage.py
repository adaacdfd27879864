"""What a process and its descendants use: CPU seconds, and memory as the kernel shares it out (PSS)."""

import contextlib
import threading
from pathlib import Path
from typing import Self

import psutil

from dev.processes import process_tree

SAMPLE_EVERY_S = 0.25


def cpu_s(pid: int) -> float:
    """Return user and system CPU seconds of the tree so far, children that have ended and were waited for included."""
    total_s = 0.0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def pss_bytes(pid: int) -> int:
    """Return the tree's proportional set size: pages shared by n processes count 1/n in each. 0 where unknown."""
    total = 0
    for process in process_tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f'/proc/{process.pid}/smaps_rollup').read_text().splitlines():
                if line.startswith('Pss:'):
                    total += int(line.split()[1]) * 1024
    return total


class PeakMemory:
    """Samples a tree's PSS in a thread while entered.

    Attributes:
        peak_bytes: The largest sample so far.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
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
        self.peak_bytes = max(self.peak_bytes, pss_bytes(self._pid))
