"""What a measure is: it runs, and later says from its numbers alone which bars are met."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.rounds import Bench

T = TypeVar('T')
Data = dict[str, Any]  # what a measure finds, as JSON holds it


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: How often everything is run in turn; five or more to be published.
        scale: Multiplies the sizes: 1 to be published, little for a smoke run.
        peers: Whether the peers' environment is there.
    """

    rounds: int
    scale: float = 1.0
    peers: bool = True

    def count(self, full: float, least: int = 1) -> int:
        """Return a size, scaled, and no smaller than least."""
        return max(least, round(full * self.scale))

    def turns(self, things: Sequence[T]) -> list[tuple[int, T]]:
        """Return (round, thing) for all of them in every round.

        Each round begins with another one.
        """
        turns = []
        for number in range(self.rounds):
            first = number % len(things)
            turns += [(number, thing) for thing in (*things[first:], *things[:first])]
        return turns


@dataclass(frozen=True)
class Bar:
    """One line of the table.

    Attributes:
        met: None where it was not measured.
    """

    measure: str
    bar: str
    measured: str
    met: bool | None


class Measure(ABC):
    """One row of the table, or several that are measured together.

    Attributes:
        key: Its name on the command line.
        title: Its name in the document.
        about_s: How long it takes with five rounds on two quiet cores.
        rounds: How often, where the command line does not say.
    """

    key: str
    title: str
    about_s: int
    rounds: int = 5

    @abstractmethod
    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Measure; the numbers of every round."""

    @abstractmethod
    def bars(self, data: Data) -> list[Bar]:
        """Judge the numbers."""

    @abstractmethod
    def details(self, data: Data) -> list[str]:
        """Return what stands below the table of bars: lines of Markdown."""

    async def profile(self, bench: Bench, plan: Plan, target: Path) -> None:  # noqa: B027 - not all can
        """Run the worker once more under py-spy, when a bar was not met."""


def spread(values: Sequence[float], form: str = '.1f') -> str:
    """Format the median and, of several values, the extremes."""
    median = f'{statistics.median(values):{form}}'
    return (
        median if len(values) == 1 else f'{median} ({min(values):{form}} to {max(values):{form}})'
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [
        f'| {" | ".join(headings)} |',
        f'|{"---|" * len(headings)}',
        *(f'| {" | ".join(row)} |' for row in rows),
    ]


def rate_and_p99_bars(
    rates: Sequence[float],
    p99s_ms: Sequence[float],
    titles: tuple[str, str],
    limits: tuple[int, float],
) -> list[Bar]:
    """Judge how much is taken a second, and the latency at half of what is wanted.

    Args:
        titles: Of the rate, and of what the latency was measured at.
        limits: E-mails a second, and milliseconds.
    """
    (rate_title, p99_title), (per_s, p99_ms) = titles, limits
    return [
        Bar(
            f'{rate_title}, e-mails/s', f'over {per_s:,}', spread(rates, ',.0f'),
            statistics.median(rates) > per_s,
        ),
        Bar(
            f'p99 of {p99_title}, ms', f'under {p99_ms:.0f}', spread(p99s_ms),
            statistics.median(p99s_ms) < p99_ms,
        ),
    ]  # fmt: skip
