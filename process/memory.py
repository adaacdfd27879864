"""How much memory this process takes."""

import resource
import sys
from pathlib import Path


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
