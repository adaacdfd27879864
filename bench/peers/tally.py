"""How many jobs a worker has run, and when the last did.

A file tells it, into which others can look for free.
"""

import itertools
import mmap
import os
import struct
import threading
import time
from pathlib import Path

FORMAT = struct.Struct('<QQ')  # jobs, nanoseconds of the monotonic clock
_DIRECTORY = os.environ.get('BENCH_TALLY')

_pid = 0
_count = itertools.count(1)
_map: mmap.mmap | None = None
_first = threading.Lock()


def ran() -> None:
    """Count one job of this process; threads and forks may call it."""
    global _pid, _map, _count  # noqa: PLW0603 - one file a process, made at its first job
    if _map is None or _pid != os.getpid():
        with _first:  # a second thread that made the file anew would take it from under the first
            if _map is None or _pid != os.getpid():
                _count = itertools.count(1)
                with (Path(_DIRECTORY or '.') / str(os.getpid())).open('w+b') as file:
                    file.truncate(FORMAT.size)
                    _map = mmap.mmap(file.fileno(), FORMAT.size)
                _pid = os.getpid()
    FORMAT.pack_into(_map, 0, next(_count), time.monotonic_ns())


def read(directory: Path) -> tuple[int, int]:
    """Return the jobs of all processes together, and when the last ran."""
    files = [data for path in directory.iterdir() if len(data := path.read_bytes()) == FORMAT.size]
    counts = [FORMAT.unpack(data) for data in files]
    return sum(count for count, _ in counts), max((at_ns for _, at_ns in counts), default=0)
