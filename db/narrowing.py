"""Statements over many rows that one of them fails: it is found by halving, the others are done."""

import time
from collections.abc import Awaitable, Callable, Hashable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

import asyncpg
import structlog

from db.errors import DATABASE_DOWN
from db.states import IS_CLAIMED, IS_SENDING
from mail_outbox.states import DeadReason, Status

log = structlog.get_logger()

Key = TypeVar('Key', bound=Hashable)

# What decoding an answer raises: bytes that are no text of the encoding, a value that Python does
# not have.
UNREADABLE = (ValueError, ArithmeticError, TypeError, RecursionError)
# About the statement, not about a row of it.
STATEMENT_IS_WRONG = (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)
SET_ASIDE_S = 300.0
MOST_BLAMED = 3  # in a row, while no other row passes: then it is not the rows


@dataclass(slots=True)
class Narrowed(Generic[Key]):
    """What became of the rows: the records of those that were done, and by its key what failed."""

    done: list[asyncpg.Record] = field(default_factory=list)
    refused: dict[Key, Exception] = field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """Why the first row was refused, None when none was."""
        return next((named(error) for error in self.refused.values()), None)


def named(error: Exception) -> str:
    """Return an error with its type."""
    return f'{type(error).__name__}: {error}'


def dead_reason_of(error: Exception) -> DeadReason:
    """Tell the row's values apart from a rule of PostgreSQL's or of the application's."""
    of_values = (asyncpg.DataError, asyncpg.InternalServerError, *UNREADABLE)
    return DeadReason.UNREADABLE if isinstance(error, of_values) else DeadReason.REFUSED


class SetAside:
    """The rows that a worker leaves alone for a while: not even their state can be changed."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self.blamed = 0  # rows that were given up since one passed

    def passed(self, rows: Sized) -> None:
        """Note that rows were worked on."""
        if rows:
            self.blamed = 0

    def add(self, email_id: int) -> None:
        """Leave a row alone."""
        self._until[email_id] = time.monotonic() + SET_ASIDE_S

    def ids(self) -> list[int]:
        """Return the rows to leave alone now."""
        if self._until:
            now = time.monotonic()
            self._until = {
                email_id: until for email_id, until in self._until.items() if until > now
            }
        return list(self._until)


async def halve(
    run: Callable[[Sequence[Key]], Awaitable[Sequence[asyncpg.Record]]],
    keys: Sequence[Key],
    *,
    concerns_all: Callable[[Exception], bool],
) -> Narrowed[Key]:
    """Run a statement over rows, in halves where it fails, down to the rows that make it fail.

    Args:
        run: Does it for the rows with these keys, and returns a record for each that was done.
        concerns_all: Whether an error is no row's: then it is raised, and parts may be done.
    """
    found: Narrowed[Key] = Narrowed()
    parts = [list(keys)] if keys else []
    while parts:
        part = parts.pop()
        try:
            found.done += await run(part)
        except (asyncpg.PostgresError, *UNREADABLE) as error:
            if concerns_all(error):
                raise
            if len(part) == 1:
                found.refused[part[0]] = error
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
    return found


async def narrow(
    run: Callable[[Sequence[int]], Awaitable[Sequence[asyncpg.Record]]], ids: Sequence[int]
) -> Narrowed[int]:
    """Run a statement over e-mails, each part by itself, and find those that make it fail.

    Args:
        run: Does it for the e-mails with these ids, and returns a record for each that was done.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL is unreachable, or the statement is wrong
            whatever the row; parts of it may be done.
    """
    found = await halve(run, ids, concerns_all=lambda error: isinstance(error, DATABASE_DOWN))
    if not found.done:
        for why in found.refused.values():
            if isinstance(why, STATEMENT_IS_WRONG):
                raise why
    return found


async def fetch_narrowly(
    pool: asyncpg.Pool, sql: str, ids: Sequence[int], *arguments: object, or_none: bool = False
) -> list[int]:
    """Run a statement that changes rows by their ids, its first value, and return those it changed.

    A row that refuses the change stays as it is, with a line in the log.

    Args:
        or_none: Return nothing when every row was refused.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL is unreachable, or every row was refused.
    """
    found = await narrow(lambda part: pool.fetch(sql, part, *arguments), ids)
    if found.refused and not found.done and not or_none:
        raise next(iter(found.refused.values()))
    for email_id, error in found.refused.items():
        log.warning(
            'row.refused',
            email_id=email_id,
            reason=named(error)[:2000],
        )
    return [row['id'] for row in found.done]


# Nothing that somebody else is sending just now.
GIVE_UP_ROW_SQL = f"""
UPDATE mail_outbox
SET status = CASE WHEN status = 'uncertain' THEN 'uncertain' ELSE $2 END, dead_reason = $3,
    last_error = $4, next_retry_at = NULL,
    claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL
WHERE id = $1 AND ({IS_CLAIMED}
                   OR ({IS_SENDING} AND (claim_token = $5 OR lease_expires_at < now())))
"""


async def give_up_rows(
    pool: asyncpg.Pool,
    found: Narrowed[int],
    set_aside: SetAside,
    status: Status = Status.FAILED,
    token: UUID | None = None,
) -> None:
    """Give the rows that could not be worked on a state and a reason.

    A row is set aside as well, so that nothing happens to it for a while where not even its state
    can be written. When many are refused and none passes, it is not the rows' doing, but a rule
    that is new, or wrong: then none is given up any more, only set aside.

    Args:
        status: Their state; UNCERTAIN for those that may have been delivered.
        token: The claim under which they are held by the caller.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL is unreachable.
    """
    set_aside.passed(found.done)
    for email_id, error in found.refused.items():
        reason = named(error).replace('\0', ' ')[:2000]
        dead_reason = dead_reason_of(error)
        fields = {'email_id': email_id, 'reason': reason}
        set_aside.add(email_id)
        set_aside.blamed += 1
        if not found.done and set_aside.blamed > MOST_BLAMED:
            log.error('row.set_aside', detail='rows are refused, and none passes', **fields)
            continue
        try:
            await pool.execute(GIVE_UP_ROW_SQL, email_id, status, dead_reason, reason, token)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as also:
            log.error(
                'row.set_aside', detail='its state cannot be changed', also=str(also), **fields
            )
        else:
            log.error('row.given_up', dead_reason=dead_reason, **fields)
