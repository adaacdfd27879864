"""Statements over many rows that one of them makes fail: that row is found by halving, and the others are done."""

import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import structlog

from db.pools import DATABASE_DOWN

log = structlog.get_logger()

# What decoding an answer raises: bytes that are no text of the encoding, a value that Python does
# not have.
UNREADABLE = (ValueError, ArithmeticError, TypeError, RecursionError)
# About the statement, not about a row of it.
STATEMENT_IS_WRONG = (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)
SET_ASIDE_S = 300.0
MOST_BLAMED = 3  # in a row, while no other row passes: then it is not the rows


@dataclass(slots=True)
class Narrowed:
    """What became of the rows: the records of those that were done, and the error of each that was not, by its id."""

    done: list[asyncpg.Record] = field(default_factory=list)
    refused: dict[int, Exception] = field(default_factory=dict)


def dead_reason(error: Exception) -> str:
    """Return `unreadable` when it is the row's values, `refused` when a rule of PostgreSQL or of the application is."""
    of_values = (asyncpg.DataError, asyncpg.InternalServerError, *UNREADABLE)
    return 'unreadable' if isinstance(error, of_values) else 'refused'


class SetAside:
    """The rows that a worker leaves alone for a while, because not even their state can be changed."""

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


async def narrow(
    run: Callable[[Sequence[int]], Awaitable[Sequence[asyncpg.Record]]], ids: Sequence[int]
) -> Narrowed:
    """Run a statement over rows, in halves where it fails, down to the rows that make it fail.

    Args:
        run: Does it for the rows with these ids, and returns a record for each that was done.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL is away, or the statement is wrong whatever the
            row; parts of it may be done.
    """
    found = Narrowed()
    parts = [list(ids)] if ids else []
    while parts:
        part = parts.pop()
        try:
            found.done += await run(part)
        except DATABASE_DOWN:
            raise
        except (asyncpg.PostgresError, *UNREADABLE) as error:
            if len(part) == 1:
                found.refused[part[0]] = error
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
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
        asyncpg.PostgresError, OSError: PostgreSQL is away, or every row was refused.
    """
    found = await narrow(lambda part: pool.fetch(sql, part, *arguments), ids)
    if found.refused and not found.done and not or_none:
        raise next(iter(found.refused.values()))
    for email_id, error in found.refused.items():
        log.warning(
            'row.refused',
            email_id=email_id,
            reason=f'{type(error).__name__}: {error}'[:2000],
        )
    return [row['id'] for row in found.done]


# Nothing that somebody else is sending just now.
GIVE_UP_ROW_SQL = """
UPDATE mail_outbox SET status = CASE WHEN status = 'uncertain' THEN 'uncertain' ELSE $2 END, dead_reason = $3,
    last_error = $4, next_retry_at = NULL, claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL
WHERE id = $1 AND (status IN ('pending', 'failed', 'uncertain')
                   OR (status = 'sending' AND (claim_token = $5 OR lease_expires_at < now())))
"""


async def give_up_rows(
    pool: asyncpg.Pool,
    found: Narrowed,
    set_aside: SetAside,
    status: str = 'failed',
    token: UUID | None = None,
) -> None:
    """Give the rows that could not be worked on a state and a reason; set aside where not even that can be written.

    When many are refused and none passes, it is not the rows' doing, but a rule that is new, or
    wrong: then none is given up any more, only set aside.

    Args:
        status: Their state; `uncertain` for those that may have been delivered.
        token: The claim under which they are held by the caller.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL is away.
    """
    set_aside.passed(found.done)
    for email_id, error in found.refused.items():
        reason = f'{type(error).__name__}: {error}'.replace('\0', ' ')[:2000]
        told = {'email_id': email_id, 'reason': reason}
        set_aside.add(email_id)
        set_aside.blamed += 1
        if not found.done and set_aside.blamed > MOST_BLAMED:
            log.error('row.set_aside', detail='rows are refused, and none passes', **told)
            continue
        try:
            await pool.execute(GIVE_UP_ROW_SQL, email_id, status, dead_reason(error), reason, token)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as also:
            log.error('row.set_aside', detail='its state cannot be changed', also=str(also), **told)
        else:
            log.error('row.given_up', dead_reason=dead_reason(error), **told)
