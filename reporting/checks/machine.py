"""The machine itself: room on its disks."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from reporting.checks.finding import Finding, error, warning

PATHS = ('/', '/tmp', '/var', '/var/log', '/var/lib/postgresql', '/var/lib/redis', '.')  # noqa: S108 - only looked at
WARN_SHARE, ERROR_SHARE = 0.10, 0.03
SMALL_BYTES = 2**30  # a tenth of a large disk is room enough


class Disk(NamedTuple):
    """A file system."""

    place: str
    total_bytes: int
    free_bytes: int


async def check() -> list[Finding]:
    """Look at the file systems that the services of one machine write to."""
    return list(judge_disks(read_disks()))


def read_disks(paths: Iterable[str] = PATHS) -> list[Disk]:
    """Return each file system once, under the first place that is on it."""
    seen: dict[int, Disk] = {}
    for place in paths:
        try:
            device = Path(place).stat().st_dev
            usage = shutil.disk_usage(place)
        except OSError:
            continue
        seen.setdefault(device, Disk(place, usage.total, usage.free))
    return list(seen.values())


def judge_disks(disks: Iterable[Disk]) -> Iterator[Finding]:
    """Judge the room that is left."""
    for disk in disks:
        share = disk.free_bytes / disk.total_bytes if disk.total_bytes else 1.0
        if share < WARN_SHARE and disk.free_bytes < 5 * SMALL_BYTES:
            severity = error if share < ERROR_SHARE else warning
            left = f'{share:.0%}, {disk.free_bytes / SMALL_BYTES:.1f} GiB'
            yield severity(
                f'the disk of {disk.place} on this machine is nearly full: {left} left',
                'make room: PostgreSQL and Redis refuse writes when theirs is full',
            )
