"""What `ops status` reports, as a document without addresses."""

import math
from functools import lru_cache
from typing import Any

from logs import hide_addresses
from reporting.judge import judge, level_of
from reporting.overview import FLEET, STORED, mark_foreign
from reporting.problems import Document, Problem
from reporting.wording import DEEPEST
from web.watch import Reading, Source

# Words of relays, of errors and of whoever queued a job: there may be addresses in them.
FREE_TEXT = frozenset({'detail', 'error', 'last_error', 'reason', 'problem', 'job_id', 'what'})
LONGEST_TEXT = 500  # names and ids come from whoever may write to Redis


@lru_cache(maxsize=2)
def judge_reading(reading: Reading) -> list[Problem]:
    """Judge as `ops status` does; where a source did not answer, that is the problem."""
    found = reading.found
    fleet, stored = (
        {name: found[name] for name in names} if all(name in found for name in names) else None
        for names in (FLEET, STORED)
    )
    for part in ('workers', 'ingresses'):
        mark_foreign(found.get(part, ()), found.get('database'))
    return [
        *(reading.problems[source] for source in Source if source in reading.problems),
        *judge(fleet, stored),
    ]


@lru_cache(maxsize=1)
def as_status(reading: Reading) -> Document:
    """Return the document of `ops status --json`.

    What was not answered is None, and addresses are hidden.
    """
    problems = judge_reading(reading)
    answers = {'level': level_of(problems).value} | {
        name: reading.found.get(name) for name in (*FLEET, *STORED)
    }
    document: Document = _hide(
        answers | {'troubles': [problem.as_document() for problem in problems]}
    )
    return document


def _hide(value: Any, *, free: bool = False, depth: int = 0) -> Any:
    """Return a value without addresses.

    What a record can hold and JSON cannot is left out: NaN, lists without end.
    """
    match value:
        case dict() | list() if depth > DEEPEST:
            return None
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {
                name: _hide(part, free=free or name in FREE_TEXT, depth=depth + 1)
                for name, part in value.items()
            }
        case list():
            return [_hide(part, free=free, depth=depth + 1) for part in value]
        case str() if free:
            return masked(value)
        case _:
            return value


def masked(text: str | None) -> str | None:
    """Return text without addresses.

    It is cut first: the search takes the square of its length, minutes for a long id.
    """
    return hide_addresses(text and text[:LONGEST_TEXT])
