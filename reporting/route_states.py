"""Which routes have a relay that takes mail now, from what workers tell of themselves."""

from collections.abc import Iterable, Mapping
from typing import Any

from fleet.route_record import read_routes

READY = 'ready'


def route_states(workers: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Return of each route's relays whether they can be used: by one worker at least.

    What a worker tells that cannot be read is left out.
    """
    found: dict[str, dict[str, bool]] = {}
    for worker in workers:
        table = read_routes(worker['routes'])
        ready = {r.get('name') for r in worker['relays'] if r.get('state') == READY}
        for route in table.routes if table else ():
            relays = found.setdefault(route.name, {})
            for name in route.relays:
                relays[name] = relays.get(name, False) or name in ready
    return found
