"""The table of scenarios."""

from collections.abc import Awaitable, Callable

from tests.chaos import kills
from tests.chaos.arena import Arena
from tests.chaos.report import Row

Scenario = Callable[[Arena], Awaitable[list[Row]]]

SCENARIOS: dict[str, Scenario] = {
    'kills': kills.random_kills,
    'poison': kills.poison,
}
