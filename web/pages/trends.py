"""What happened lately, for the overview: charts, and who had the most attempts."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from reporting.history import (
    WINDOWS,
    Dimension,
    History,
    HistoryWindow,
    NamedCounts,
    read_history,
    read_most,
)
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers
from web.pages.charts import attempts_chart, latency_chart

SHARED_S = 10.0
MOST = 6
FIRST_WINDOW = '1h'
LATE_S = 300.0  # the duty counts every minute
SHOWN: tuple[Dimension, ...] = (
    Dimension.RELAY, Dimension.TYPE, Dimension.DOMAIN, Dimension.ORGANIZATION,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trends:
    """A window of time, drawn.

    Attributes:
        most: Who had the most attempts, by what.
    """

    history: History
    attempts: Markup
    latency: Markup
    most: dict[Dimension, list[NamedCounts]]

    @property
    def is_late(self) -> bool:
        """Whether the duty that counts has not run for some time."""
        return self.history.age_s > LATE_S


class KnownTrends:
    """The trends of each window; everybody who looks within SHARED_S gets the same."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: dict[str, tuple[float, Trends | Problem]] = {}
        self._reading = asyncio.Lock()

    async def find(self, name: str) -> Trends | Problem:
        """Return the trends of a window, or why they are not known.

        Args:
            name: Of reporting.history.WINDOWS; another one is the first.
        """
        window = WINDOWS.get(name, WINDOWS[FIRST_WINDOW])
        async with self._reading:
            read_at, found = self._known.get(window.name, (-SHARED_S, None))
            if found is None or time.monotonic() - read_at > SHARED_S:
                try:
                    found = await self._read(window)
                except ProblemError as error:
                    found = error.problem
                self._known[window.name] = (time.monotonic(), found)
        return found

    async def _read(self, window: HistoryWindow) -> Trends:
        history = await self._servers.ask_postgres(partial(read_history, window=window))
        most = {
            by: await self._servers.ask_postgres(
                partial(read_most, window=window, dimension=by, limit=MOST)
            )
            for by in SHOWN
        }
        return Trends(history, attempts_chart(history), latency_chart(history), most)
