"""Clock skew: leases go by PostgreSQL's clock, deferred jobs by Redis's, certificates and logs by this machine's.

And time zones, where times are stored without one.
"""

import time
from collections.abc import Awaitable, Callable, Iterator

from arq.connections import ArqRedis

from db.checkup import read_time
from ops.answer import TroubleError
from ops.checks import zones
from ops.checks.finding import Finding, away, error, warning
from ops.connect import Connections
from ops.output import length

WARN_S, ERROR_S = 1.0, 5.0


async def check(connections: Connections) -> list[Finding]:
    """Compare the clocks of whoever answers with ours."""
    ahead_s: dict[str, float] = {}
    silent = []
    for name, ask in (
        ('PostgreSQL', lambda: connections.ask_postgres(read_time)),
        ('Redis', lambda: connections.ask_redis(redis_time)),
    ):
        try:
            ahead_s[name] = await measure(ask)
        except TroubleError as failure:
            silent.append(away(failure.trouble))
    return [
        *silent,
        *judge(ahead_s),
        *(await zones.check(connections) if 'PostgreSQL' in ahead_s else []),
    ]


async def redis_time(redis: ArqRedis) -> float:
    """Return Redis's time in seconds since 1970."""
    seconds, microseconds = await redis.time()
    return float(seconds) + float(microseconds) / 1e6


async def measure(ask: Callable[[], Awaitable[float]]) -> float:
    """Return by how many seconds a server's clock is ahead, as surely as its answer was fast: 0 within that time."""
    await ask()  # connects, which takes longer
    before = time.time()
    told = await ask()
    after = time.time()
    return told - after if told > after else min(0.0, told - before)


def judge(ahead_s: dict[str, float]) -> Iterator[Finding]:
    """Judge each clock against this machine's."""
    for name, ahead in ahead_s.items():
        size = abs(ahead)
        if size > WARN_S:
            direction = 'ahead of' if ahead > 0 else 'behind'
            severity = error if size > ERROR_S else warning
            yield severity(
                f"{name}'s clock is {length(round(size, 1))} {direction} this machine's",
                'let NTP (chrony, systemd-timesyncd) set the clocks of all machines',
            )
