"""Clock skew, for leases go by PostgreSQL's clock, and deferred jobs by Redis's.

Certificates and logs go by this machine's. And time zones, where times are stored without one.
"""

import time
from collections.abc import Awaitable, Callable, Iterator

from arq.connections import ArqRedis

from db.checkup import read_time
from reporting.checks import zones
from reporting.checks.finding import Finding, error, unreachable, warning
from reporting.problems import ProblemError
from reporting.servers import Servers
from reporting.wording import length

WARN_S, ERROR_S = 1.0, 5.0


async def check(servers: Servers) -> list[Finding]:
    """Compare the clocks of whoever answers with ours."""
    ahead_s: dict[str, float] = {}
    silent = []
    for name, ask in (
        ('PostgreSQL', lambda: servers.ask_postgres(read_time)),
        ('Redis', lambda: servers.ask_redis(redis_time)),
    ):
        try:
            ahead_s[name] = await measure(ask)
        except ProblemError as failure:
            silent.append(unreachable(failure.problem))
    return [
        *silent,
        *judge_clocks(ahead_s),
        *(await zones.check(servers) if 'PostgreSQL' in ahead_s else []),
    ]


async def redis_time(redis: ArqRedis) -> float:
    """Return Redis's time in seconds since 1970."""
    seconds, microseconds = await redis.time()
    return float(seconds) + float(microseconds) / 1e6


async def measure(ask: Callable[[], Awaitable[float]]) -> float:
    """Return by how many seconds a server's clock is ahead; 0 within the time its answer took."""
    await ask()  # connects, which takes longer
    before = time.time()
    reported = await ask()
    after = time.time()
    return reported - after if reported > after else min(0.0, reported - before)


def judge_clocks(ahead_s: dict[str, float]) -> Iterator[Finding]:
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
