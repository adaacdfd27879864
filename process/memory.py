"""How much memory this process takes, and how much of it is looked at for garbage."""

import gc
import resource
import sys
from pathlib import Path

GC_EVERY_OBJECTS = 20_000


def settle() -> None:
    """Have the garbage collector leave alone what the start has made.

    Looking at it again and again took a twentieth of a worker's processor time, and held the web
    server's loop for 0.1 s at a time (2026-11).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_EVERY_OBJECTS)


def resident_bytes() -> int:
    """Return the memory this process occupies.

    Without /proc, it is the most that the process ever occupied.
    """
    try:
        resident_pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024
    return resident_pages * resource.getpagesize()
