"""What the fleet and its mail are like now; of a server that is away, what it said last."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from db import reports
from db.checkup import count_poisoned
from db.identity import read_identity
from db.switches import read_switches
from logs import hide_addresses
from reporting.history import WINDOWS, Dimension, NamedCounts, read_history, read_most
from reporting.judge import in_order, judge_outbox, judge_switches
from reporting.judge_fleet import judge_fleet
from reporting.live import Audience, read_living_fleet
from reporting.overview import as_rows, mark_foreign
from reporting.problems import Document, Problem, is_alive
from reporting.servers import Servers, answer_or_note

FAILURES = 30
TYPES = 20
OUTCOMES = ('sent', 'deferred', 'failed')
FLEET_PARTS = ('workers', 'queues')
STORED_PARTS = (
    'outbox', 'last_minute', 'hour', 'latency', 'types', 'relays', 'failures', 'switches',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FleetLook:
    """One look.

    Attributes:
        document: workers and queues, and what PostgreSQL knows; None each of what is unknown.
        problems: What is wrong, the gravest first.
        since: Of parts that are of before: the server, and when it answered last.
    """

    document: Document
    problems: list[Problem] = field(default_factory=list)
    since: dict[str, datetime] = field(default_factory=dict)


async def look_at_fleet(servers: Servers, audience: Audience) -> FleetLook:
    """Ask everybody at the same time; what does not answer is missing."""
    problems: list[Problem] = []
    fleet, stored = await asyncio.gather(
        read_living_fleet(servers, audience, problems),
        answer_or_note(servers.ask_postgres(read_screen), problems),
    )
    document: Document = {'at': datetime.now(UTC), **dict.fromkeys(FLEET_PARTS)}
    if fleet is not None:
        document |= fleet
        mark_foreign(fleet['workers'], stored['database'] if stored else None)
        problems += judge_fleet(fleet)
    if stored is not None:
        is_worked = not fleet or is_alive(fleet)
        problems += judge_outbox(
            stored['outbox'], stored['paused_due'], stored['poisoned'], is_worked=is_worked
        )
        problems += judge_switches(stored['switches'], stored['paused_due'])
    document |= stored or dict.fromkeys(STORED_PARTS)
    return FleetLook(document, in_order(dict.fromkeys(problems)))


async def read_screen(pool: asyncpg.Pool) -> Document:
    """Return what PostgreSQL knows; addresses are hidden, for relays quote recipients."""
    failures = await reports.read_last_failures(pool, FAILURES)
    history = await read_history(pool, WINDOWS['1h'])
    return {
        'outbox': await reports.read_outbox(pool),
        'last_minute': await reports.count_last_minute(pool),
        'hour': {
            name: [getattr(point.counts, name) for point in history.points] for name in OUTCOMES
        },
        'latency': history.latency and asdict(history.latency),
        'types': _named(await read_most(pool, WINDOWS['1h'], Dimension.TYPE, TYPES)),
        'relays': _named(await read_most(pool, WINDOWS['1h'], Dimension.RELAY, TYPES)),
        'failures': [failure | {'error': hide_addresses(failure['error'])} for failure in failures],
        'switches': as_rows(await read_switches(pool)),
        'paused_due': await reports.read_paused_due(pool),
        'poisoned': await count_poisoned(pool),
        'database': await read_identity(pool),
    }


def _named(most: Iterable[NamedCounts]) -> list[Document]:
    return [{'name': one.name, **asdict(one.counts)} for one in most]


def with_older(look: FleetLook, before: FleetLook | None) -> FleetLook:
    """Fill what is missing in a look with what the one before has, and say since when."""
    document, since = dict(look.document), {}
    for server, parts in (('Redis', FLEET_PARTS), ('PostgreSQL', STORED_PARTS)):
        if document[parts[0]] is not None:
            continue
        at = (before.since.get(server) or before.document['at']) if before else None
        if before is None or at is None or before.document[parts[0]] is None:
            continue
        since[server] = at
        document |= {part: before.document[part] for part in parts}
    return FleetLook(document, look.problems, since)


def is_paused(document: Document, kind: str, name: str) -> dict[str, Any] | None:
    """Return the switch that pauses this, with who did it and why; None: nothing does."""
    return next(
        (s for s in document['switches'] or () if s['kind'] == kind and s['name'] == name), None
    )
