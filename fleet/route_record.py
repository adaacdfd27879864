"""The routes of a worker in its record, so that whoever explains an e-mail knows its route."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mail.route_table import Route, RouteTable

# What is longer is told of by its name alone: a record is written every few seconds.
MOST_ROUTES, LONGEST_CHARS = 50, 2000


def describe_routes(table: RouteTable) -> list[dict[str, Any]]:
    """Return each route's name with its conditions and its chain as JSON, if they are short."""
    described = []
    for route in table.routes[:MOST_ROUTES]:
        parts: dict[str, Any] = {'name': route.name}
        match = json.dumps(dict(route.conditions()))
        chain = json.dumps([dict(place) for place in route.chain])
        if len(match) + len(chain) <= LONGEST_CHARS:
            parts |= {'match': match, 'chain': chain}
        described.append(parts)
    return described


def read_routes(told: Sequence[Mapping[str, Any]]) -> RouteTable | None:
    """Read what a worker tells; None when it is not all there, or was written by something else."""
    try:
        return RouteTable([_route(part) for part in told])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _route(part: Mapping[str, Any]) -> Route:
    match, chain = json.loads(part['match']), json.loads(part['chain'])

    def values(key: str) -> frozenset[str]:
        return frozenset(map(str, match.get(key, ())))

    return Route(
        str(part['name']),
        values('email_type'),
        values('sender_domain'),
        values('recipient_domain'),
        values('organization'),
        tuple({str(name): float(weight) for name, weight in place.items()} for place in chain),
    )
