"""Queueing for clients: the e-mails of requests that come together are one INSERT and one commit.

Each request is answered after the commit that holds its e-mails. What goes wrong with one concerns
none of the others: those that were to be stored with it are stored one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, cast

import asyncpg
import orjson

from db.api_requests import (
    KnownRequest,
    RequestKey,
    answer_requests,
    claim_keys,
    read_requests,
)
from db.errors import DATABASE_DOWN
from db.references import AnyConnection
from engine.batches import Batcher
from mail_outbox.adapters.asyncpg import AsyncpgDriver
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.insertion import QUEUE, QUEUE_MANY
from mail_outbox.queueing import inserted
from mail_outbox.steps import run_steps_async
from mail_outbox.wake import NOTIFY_SQL
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.api.problem import RefusalError
from web.api.resend.model import refusal_of_email
from web.api.resend.refusals import OTHER_BODY, SAME_TIME, refused

TOGETHER = 100  # requests in one transaction
GROUPS_AT_ONCE = 2  # one is made up while the other is committed

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Submission:
    """What one request asks for.

    Attributes:
        rows: As checked_row returns them.
        key: Its Idempotency-Key, if it has one; digest says what for.
        answer: Makes the answer from the ids of the rows.
    """

    rows: Sequence[Row]
    key: RequestKey | None
    digest: bytes
    answer: Callable[[Sequence[int]], str]


Outcome = str | Exception  # the answer, or why there is none


class Intake:
    """Stores submissions."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._small = Batcher(self._store_or_refuse, max_items=TOGETHER, parallel=GROUPS_AT_ONCE)

    async def submit(self, submission: Submission, *, is_small: bool) -> str:
        """Queue the e-mails of a request, or find out that this was done before.

        Args:
            is_small: It may share a transaction with others, which then wait for it.
        Returns:
            The answer.
        Raises:
            RefusalError: its key was used for something else, or a value does not fit its column.
            ProblemError: PostgreSQL does not answer. It may have stored the e-mails.
        """
        if is_small:
            outcome = await self._small(submission)
        else:
            (outcome,) = await self._store_or_refuse([submission])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _store_or_refuse(self, submissions: Sequence[Submission]) -> list[Outcome]:
        try:
            return await self._servers.ask_postgres(lambda pool: _store(pool, submissions))
        except (ProblemError, RefusalError) as error:
            return [error] * len(submissions)


async def _store(pool: asyncpg.Pool, submissions: Sequence[Submission]) -> list[Outcome]:
    """Store together what can be; alone what cannot."""
    try:
        return await _store_together(pool, submissions)
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError as error:
        if len(submissions) == 1:
            return [_refusal_of_row(error)]
    return [(await _store(pool, [submission]))[0] for submission in submissions]


async def _store_together(pool: asyncpg.Pool, submissions: Sequence[Submission]) -> list[Outcome]:
    firsts: dict[RequestKey, Submission] = {}
    for submission in submissions:
        if submission.key is not None:
            firsts.setdefault(submission.key, submission)
    async with pool.acquire() as conn, conn.transaction():
        known: dict[RequestKey, KnownRequest] = {}
        if firsts:
            fresh = await claim_keys(conn, {key: first.digest for key, first in firsts.items()})
            if used := firsts.keys() - fresh:
                known = await read_requests(conn, used)
        wanted = [
            submission
            for submission in submissions
            if submission.key is None
            or (submission.key not in known and firsts[submission.key] is submission)
        ]
        answers = await _insert(conn, wanted)
        given = {id(submission): text for submission, text in zip(wanted, answers, strict=True)}
        keyed = {s.key: KnownRequest(s.digest, given[id(s)]) for s in wanted if s.key is not None}
        if keyed:
            await answer_requests(conn, {key: request.answer for key, request in keyed.items()})
    known |= keyed
    return [
        given[id(submission)] if id(submission) in given else _again(submission, known)
        for submission in submissions
    ]


async def _insert(conn: AnyConnection, submissions: Sequence[Submission]) -> list[str]:
    rows = [row for submission in submissions for row in submission.rows]
    if not rows:
        return [submission.answer([]) for submission in submissions]
    ids = dict(zip([id(row) for row in rows], await _insert_rows(conn, rows), strict=True))
    now = datetime.now(UTC)
    if any(row['send_at'] is None or row['send_at'] <= now for row in rows):
        await conn.execute(NOTIFY_SQL)
    return [
        submission.answer([ids[id(row)] for row in submission.rows]) for submission in submissions
    ]


async def _insert_rows(conn: AnyConnection, rows: Sequence[Row]) -> list[int]:
    """Insert rows, whose senders were checked before; return their ids."""
    if any(row['attachments'] for row in rows):
        steps = inserted([{**row, 'senders': ()} for row in rows])
        return await run_steps_async(AsyncpgDriver(cast(asyncpg.Connection, conn)), steps)
    # mail_outbox.statement.rows_as_json does the same, four times slower.
    values = orjson.dumps([QUEUE.by_name(row) for row in rows], default=_as_text).decode()
    return [record['id'] for record in await conn.fetch(QUEUE_MANY.numbered, values)]


def _as_text(value: Any) -> str:
    return f'\\x{value.hex()}' if isinstance(value, bytes) else str(value)


def _again(submission: Submission, known: Mapping[RequestKey, KnownRequest]) -> Outcome:
    """Answer a request whose key is known."""
    first = known.get(submission.key) if submission.key else None
    if first is None:  # it was past its time a moment ago, and somebody else has renewed it
        return refused(
            SAME_TIME, 'the same Idempotency-Key is being used by another request', 'try it again',
            HTTPStatus.CONFLICT,
        )  # fmt: skip
    if first.digest != submission.digest:
        return refused(
            OTHER_BODY, 'this Idempotency-Key was used with another body or path',
            'give each request a key of its own', HTTPStatus.CONFLICT,
        )  # fmt: skip
    return first.answer


def _refusal_of_row(error: asyncpg.PostgresError) -> RefusalError:
    """Return why PostgreSQL does not take a row: a value is not of its column's type, or worse."""
    return refusal_of_email(InvalidEmailError(f'not stored: {" ".join(str(error).split())[:300]}'))
