"""How far an adoption has come: the one row of outbox_adoption."""

import json
from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg

from db.adoption.words import Words, from_json


class AdoptionPhase(StrEnum):
    """The CHECK in db/migrations/0004_adoption.sql lists the same."""

    EXPANDING = 'expanding'  # `python -m db.migrate` has begun and not ended
    SHARED = 'shared'  # both systems may run, each with rows of its own
    TAKEN_OVER = 'taken over'  # every e-mail that is not sent is ours
    FINISHED = 'finished'  # the table has the form of a new installation


class Adoption(NamedTuple):
    """What is known about it."""

    phase: AdoptionPhase
    added_columns: list[str]
    added_indexes: list[str]
    words: Words | None  # None: not decided yet


READ_SQL = 'SELECT phase, added_columns, added_indexes, words::text AS words FROM outbox_adoption'


async def read_adoption(conn: Any) -> Adoption | None:
    """Return how far the adoption has come.

    None: outbound_emails was made by this program, or is not there.

    Args:
        conn: A connection or a pool.
    """
    try:
        row = await conn.fetchrow(READ_SQL)
    except asyncpg.UndefinedTableError:
        return None
    if row is None:
        return None
    words = json.loads(row['words'])
    return Adoption(
        AdoptionPhase(row['phase']),
        row['added_columns'],
        row['added_indexes'],
        from_json(words) if words else None,
    )


async def read_phase(conn: Any) -> AdoptionPhase | None:
    """Return the phase alone, as read_adoption."""
    adoption = await read_adoption(conn)
    return None if adoption is None else adoption.phase


SET_PHASE_SQL = """
UPDATE outbox_adoption SET phase = $1::text,
    taken_over_at = CASE WHEN $1::text = 'taken over' THEN now() ELSE taken_over_at END,
    finished_at = CASE WHEN $1::text = 'finished' THEN now() ELSE finished_at END
"""


async def set_phase(conn: asyncpg.Connection, phase: AdoptionPhase) -> None:
    """Go on to a phase."""
    await conn.execute(SET_PHASE_SQL, phase.value)
