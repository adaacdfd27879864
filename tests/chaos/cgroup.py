"""A limit on a worker's memory, as the unit's MemoryMax: the kernel kills what goes beyond it."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path('/sys/fs/cgroup')
# Where the groups are, the file with the limit, and the one with the kills, by cgroup version.
VERSIONS = (
    (ROOT / 'memory', 'memory.limit_in_bytes', 'memory.oom_control'),
    (ROOT, 'memory.max', 'memory.events'),
)


@contextlib.contextmanager
def memory_limit(name: str, limit_bytes: int) -> Iterator['MemoryLimit | None']:
    """Make a group with this limit; None where this process may not."""
    group = _make(name, limit_bytes)
    try:
        yield group
    finally:
        if group is not None:
            with contextlib.suppress(OSError):  # somebody in it is still ending
                group.directory.rmdir()


def _make(name: str, limit_bytes: int) -> 'MemoryLimit | None':
    for root, limit, kills in VERSIONS:
        directory = root / name
        try:
            directory.mkdir()
            (directory / limit).write_text(str(limit_bytes))
        except OSError:
            with contextlib.suppress(OSError):
                directory.rmdir()
        else:
            return MemoryLimit(directory, directory / kills)
    return None


class MemoryLimit:
    """A group whose processes share a limit."""

    def __init__(self, directory: Path, kills: Path) -> None:
        self.directory = directory
        self._kills = kills

    def wrap(self, argv: list[str]) -> list[str]:
        """Return a command that enters the group before it becomes the given one."""
        enter = f'echo $$ > {self.directory}/cgroup.procs && exec "$@"'
        return [shutil.which('sh') or '/bin/sh', '-c', enter, 'sh', *argv]

    def kills(self) -> int:
        """Return how many processes the kernel has killed in it."""
        told = dict(line.split() for line in self._kills.read_text().splitlines())
        return int(told.get('oom_kill', 0))
