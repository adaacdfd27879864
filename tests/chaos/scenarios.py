"""The table of scenarios, the longest first, so that the lanes end together."""

from collections.abc import Awaitable, Callable

from tests.chaos import (
    clocks,
    cron_slots,
    hostile,
    ingress,
    kills,
    phases,
    postgres_faults,
    redis_faults,
    relays,
    rolling,
)
from tests.chaos.arena import Arena
from tests.chaos.report import Row

Scenario = Callable[[Arena], Awaitable[list[Row]]]

SCENARIOS: dict[str, Scenario] = {
    'kills': kills.random_kills,
    'phases': phases.by_phase,
    'redis': redis_faults.redis_faults,
    'large': hostile.large,
    'poison': kills.poison,
    'refuses': relays.refuses,
    'closes': relays.closes,
    'rolling': rolling.rolling_restart,
    'cron': cron_slots.cron_slots,
    'frozen': postgres_faults.frozen,
    'postgres': postgres_faults.postgres_faults,
    'clocks': clocks.clocks,
    'ingress': ingress.ingress,
    'stalls': relays.stalls,
    'throttles': relays.throttles,
    'hostile': hostile.hostile,
}
