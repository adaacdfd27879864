"""What was sent, deferred and refused over time, how long it took, and to and for whom.

From the counts that a duty keeps (db/history.py): a window of any length costs a few milliseconds,
and ends with the last minute that is counted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import asyncpg

from db.history import HOUR_SPAN_S, MINUTE_SPAN_S, quantile_ms
from db.reports.history import CountedSpan, count_by_name, read_counted
from mail.outcome import Outcome


@dataclass(frozen=True, slots=True)
class HistoryWindow:
    """How long a time is looked at, and in which steps."""

    name: str
    length: timedelta
    step_s: int
    span_s: int  # of the rows it is made of


# The windows there are, by name.
WINDOWS: Mapping[str, HistoryWindow] = {
    window.name: window
    for window in (
        HistoryWindow('1h', timedelta(hours=1), 60, MINUTE_SPAN_S),
        HistoryWindow('24h', timedelta(hours=24), 900, MINUTE_SPAN_S),
        HistoryWindow('7d', timedelta(days=7), 3600, HOUR_SPAN_S),
    )
}


class Dimension(StrEnum):
    """By what attempts are counted."""

    RELAY = 'relay'
    TYPE = 'type'
    ORGANIZATION = 'organization'
    DOMAIN = 'domain'
    WORKER = 'worker'


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """How many attempts ended how. What was released tried nothing, and is in none of these."""

    sent: int = 0
    deferred: int = 0  # also those whose worker was lost
    failed: int = 0  # refused for good
    uncertain: int = 0

    @property
    def attempts(self) -> int:
        """Return how many there were in all."""
        return self.sent + self.deferred + self.failed + self.uncertain


@dataclass(frozen=True, slots=True)
class Latency:
    """How long e-mails took from being queued to being accepted, in seconds, to about a tenth.

    One that was queued for later counts from when it was queued.
    """

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One step. latency is None when nothing was accepted."""

    at: datetime  # its beginning
    counts: AttemptCounts
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class History:
    """What happened in a window.

    Attributes:
        points: One a step, also where nothing happened; the last may be short of its end.
        total: Of all points.
        latency: Of all points.
        until: Up to when everything is counted.
        age_s: How long ago that is; more than some minutes: the duty count_history does not run.
    """

    window: HistoryWindow
    points: list[HistoryPoint]
    total: AttemptCounts
    latency: Latency | None
    until: datetime
    age_s: float


@dataclass(frozen=True, slots=True)
class NamedCounts:
    """The attempts of one relay, type, organisation, domain or worker."""

    name: str
    counts: AttemptCounts


async def read_history(pool: asyncpg.Pool, window: HistoryWindow) -> History:
    """Return what happened, step by step.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the other.
    """
    counted = await read_counted(pool, window.span_s, window.step_s, window.length)
    return made_history(window, counted)


async def read_most(
    pool: asyncpg.Pool, window: HistoryWindow, dimension: Dimension, limit: int = 10
) -> list[NamedCounts]:
    """Return who had the most attempts, the most first. The rest of them may be `(others)`."""
    counted = await count_by_name(pool, window.span_s, dimension, window.length, limit)
    found = [NamedCounts(name, counts_of(outcomes)) for name, outcomes in counted.items()]
    return sorted(found, key=lambda one: (-one.counts.attempts, one.name))


def made_history(window: HistoryWindow, counted: CountedSpan) -> History:
    """Return the points of what was counted."""
    points = [
        HistoryPoint(
            at,
            counts_of(counted.outcomes.get(at, {})),
            _latency_of(counted.latencies.get(at, {})),
        )
        for at in _steps(counted.since, counted.until, window.step_s)
    ]
    outcomes: Counter[str] = Counter()
    for step in counted.outcomes.values():
        outcomes.update(step)
    latencies: Counter[int] = Counter()
    for buckets in counted.latencies.values():
        latencies.update(buckets)
    return History(
        window, points, counts_of(outcomes), _latency_of(latencies), counted.until, counted.age_s
    )


def counts_of(outcomes: Mapping[str, int]) -> AttemptCounts:
    """Return outcomes as people count them."""
    return AttemptCounts(
        sent=outcomes.get(Outcome.ACCEPTED, 0),
        deferred=outcomes.get(Outcome.DEFERRED, 0) + outcomes.get(Outcome.LOST, 0),
        failed=outcomes.get(Outcome.REJECTED, 0),
        uncertain=outcomes.get(Outcome.UNCERTAIN, 0),
    )


def _latency_of(buckets: Mapping[int, int]) -> Latency | None:
    if not buckets:
        return None
    return Latency(*(quantile_ms(buckets, quantile) / 1000 for quantile in (0.5, 0.95, 0.99)))


def _steps(since: datetime, until: datetime, step_s: int) -> Iterator[datetime]:
    while since < until:
        yield since
        since += timedelta(seconds=step_s)
