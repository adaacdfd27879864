"""Queueing for clients: the e-mails of requests that come together are one INSERT and one commit.

Each request is answered after the commit that holds its e-mails. What goes wrong with one concerns
none of the others: it is found by halving those that were to be stored with it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

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
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.insertion import ATTACH, QUEUE, QUEUE_MANY
from mail_outbox.queueing import attachment_rows
from mail_outbox.quota import quota_refusal
from mail_outbox.steps import unsuitable_value
from mail_outbox.wake import NOTIFY_SQL
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.api.problem import RefusalError
from web.api.resend.model import refusal_of_email
from web.api.resend.refusals import OTHER_BODY, QUOTA, SAME_TIME, refused

TOGETHER = 100  # requests in one transaction
HEX_BYTES = 1024 * 1024  # made at once
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
            # Where PostgreSQL hangs, those before it take the deadline's time.
            outcome = await self._servers.in_time(self._small(submission))
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
    """Store together what can be; what cannot is found by halving."""
    try:
        return await _store_together(pool, submissions)
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError as error:
        if len(submissions) == 1:
            return [_refusal_of_row(error, submissions[0].rows)]
    half = len(submissions) // 2
    return [*await _store(pool, submissions[:half]), *await _store(pool, submissions[half:])]


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
    # mail_outbox.statement.rows_as_json does the same, four times slower.
    given = [QUEUE.by_name(row) for row in rows]
    for row in given:
        if row['raw_message'] is not None:
            row['raw_message'] = await _in_hex(row['raw_message'])
    values = orjson.dumps(given, default=_as_text).decode()
    ids = [record['id'] for record in await conn.fetch(QUEUE_MANY.numbered, values)]
    if attached := [ATTACH.in_order(file) for file in attachment_rows(ids, rows)]:
        await conn.executemany(ATTACH.numbered, attached)
    return ids


def _as_text(value: Any) -> str:
    return f'\\x{value.hex()}' if isinstance(value, bytes) else str(value)


async def _in_hex(data: bytes) -> str:
    """Return what _as_text does of many bytes; others are answered meanwhile."""
    pieces = ['\\x']
    for start in range(0, len(data), HEX_BYTES):
        pieces.append(data[start : start + HEX_BYTES].hex())
        await asyncio.sleep(0)
    return ''.join(pieces)


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


def _refusal_of_row(error: asyncpg.PostgresError, rows: Sequence[Row]) -> RefusalError:
    """Return why PostgreSQL does not take a row: a value is not of its column's type, or worse."""
    if (quota := quota_refusal(error)) is not None:
        return refused(
            QUOTA, str(quota), 'try again then, or have the quota raised',
            HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=quota.seconds_left(),
        )  # fmt: skip
    if isinstance(error, asyncpg.DataError):
        return refusal_of_email(unsuitable_value(error, QUEUE, rows))
    return refusal_of_email(InvalidEmailError(f'not stored: {" ".join(str(error).split())[:300]}'))
