"""E-mails page by page, the newest first."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from db.selection import DEAD, OWN_1, OWN_2, OWN_3, RETRYING, SELECTED, Selection
from db.states import IS_FINAL, IS_PART, OTHERS
from db.times import rows_of
from mail_outbox.states import Status

LAST_ID = 2**63 - 1

# Of a field that is larger than any that can be sent, the beginning: a page holds up to 200.
_TEXTS = ', '.join(
    f'left({column}, 2000) AS {column}'
    for column in ('from_address', 'recipient', 'cc', 'bcc', 'subject')
)

# By the primary key, backwards from where the last page ended: what is queued meanwhile moves
# nothing. Large columns are not read.
_COLUMNS = f"""
SELECT id, status, {_TEXTS}, email_type::text AS email_type,
    CASE WHEN octet_length(tags::text) <= 10000 THEN tags END AS tags, priority,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    {IS_FINAL} AS is_final, next_retry_at, last_attempt_at, sent_at, expires_at, created_at,
    relay, smtp_code, enhanced_code, left(COALESCE(last_error, smtp_response), 2000) AS error,
    dead_reason, message_id, user_id::text AS user_id, organization_id::text AS organization_id
"""
_LISTED = f'{_COLUMNS} FROM mail_outbox'
# A selection that no index knows may fit next to nothing: so it is looked for stretch by stretch, a
# stretch being the next rows whatever they are, and whoever asks goes on from where it ended.
_STRETCH = f"""
{_COLUMNS} FROM (
    SELECT * FROM mail_outbox WHERE id < {OWN_1}::bigint {{part}} ORDER BY id DESC LIMIT {OWN_3}
) AS stretch WHERE {SELECTED} ORDER BY id DESC LIMIT {OWN_2}
"""
_END = """
SELECT min(id) FROM (
    SELECT id FROM mail_outbox WHERE id < $1::bigint {part} ORDER BY id DESC LIMIT $2
) AS stretch HAVING count(*) = $2
"""
LIST_STRETCH_SQL = _STRETCH.format(part='')
END_OF_STRETCH_SQL = _END.format(part='')
# Of one state, by the index outbound_emails_other.
LIST_PART_SQL = _STRETCH.format(part=f'AND {IS_PART.format("$20", "$21")}')
END_OF_PART_SQL = _END.format(part=f'AND {IS_PART.format("$3", "$4")}')
# All ids first: in the order of the list the planner would go through the whole table by its key.
LIST_EVERYWHERE_SQL = f"""
WITH found AS MATERIALIZED (SELECT id FROM mail_outbox WHERE {SELECTED})
{_LISTED} WHERE id IN (
    SELECT id FROM found WHERE id < {OWN_1}::bigint ORDER BY id DESC LIMIT {OWN_2}
) ORDER BY id DESC
"""
# Whatever the statistics say: of a stretch the planner takes all rows, and would rather sort them.
BY_INDEX_SQL = (
    "SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true)"
)
SORTED_SQL = "SELECT set_config('enable_sort', 'on', true)"
FIRST_STRETCH, LONGEST_STRETCH = 20_000, 200_000
STRETCHES_S = 0.7  # then what was found so far is the answer

Part = tuple[str, bool]  # a state, and whether no attempt follows


@dataclass(frozen=True, slots=True)
class ListedEmails:
    """A page of e-mails.

    Attributes:
        rows: The newest id first.
        goes_on_before: The page after it ends before this id; None: there is none.
        is_whole: Where it is False, older e-mails were not looked at, and may fit.
    """

    rows: list[dict[str, Any]]
    goes_on_before: int | None = None
    is_whole: bool = True


async def list_emails(
    pool: asyncpg.Pool, selection: Selection, *, before_id: int = LAST_ID, limit: int
) -> ListedEmails:
    """Return what a selection covers, the newest id first.

    Args:
        before_id: Where the page before ended.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    ends_at = time.monotonic() + STRETCHES_S
    parts = _parts(selection.statuses)
    async with pool.acquire() as conn, conn.transaction(readonly=True):
        await conn.execute(BY_INDEX_SQL)
        listing = partial(_list, conn, selection, before_id, limit, ends_at)
        if parts is None or selection.recipient is not None:
            return await listing(None)
        found = [await listing(part) for part in parts]
    return _merged(found, limit)


def _parts(statuses: Sequence[str] | None) -> Sequence[Part] | None:
    """Return the parts of the index that these states are; None: it has not all of them."""
    found: set[Part] = set()
    for word in statuses or ('',):
        if word in {DEAD, RETRYING}:
            found.add((Status.FAILED, word == DEAD))
        elif word in OTHERS:
            found |= {(word, True), (word, False)}
        else:
            return None
    return sorted(found)


async def _list(
    conn: asyncpg.pool.PoolConnectionProxy,
    selection: Selection,
    before_id: int,
    limit: int,
    ends_at: float,
    part: Part | None,
) -> ListedEmails:
    listing, ending = (
        (LIST_STRETCH_SQL, END_OF_STRETCH_SQL) if part is None else (LIST_PART_SQL, END_OF_PART_SQL)
    )
    own, rows, stretch = part or (), list[dict[str, Any]](), FIRST_STRETCH
    while True:
        asked = (*selection.parameters, before_id, limit + 1 - len(rows), stretch, *own)
        rows += rows_of(await conn.fetch(listing, *asked))
        if len(rows) > limit:
            return _page(rows, limit)
        last: int | None = await conn.fetchval(ending, before_id, stretch, *own)
        if last is None:
            return ListedEmails(rows)
        if selection.recipient is not None:  # it has an index, and whose mail is much was found
            asked = (*selection.parameters, last, limit + 1 - len(rows))
            await conn.execute(SORTED_SQL)
            return _page(rows + rows_of(await conn.fetch(LIST_EVERYWHERE_SQL, *asked)), limit)
        if time.monotonic() > ends_at:
            return ListedEmails(rows, last, is_whole=False)
        before_id, stretch = last, min(2 * stretch, LONGEST_STRETCH)


def _page(rows: list[dict[str, Any]], limit: int) -> ListedEmails:
    if len(rows) <= limit:
        return ListedEmails(rows)
    return ListedEmails(rows[:limit], rows[limit - 1]['id'])


def _merged(found: Sequence[ListedEmails], limit: int) -> ListedEmails:
    """Return one page of several, as far back as all of them have looked."""
    cut = [part.goes_on_before or 0 for part in found if not part.is_whole]
    floor = max(cut, default=0)
    rows = sorted((r for part in found for r in part.rows), key=lambda r: r['id'], reverse=True)
    page = _page([row for row in rows if row['id'] >= floor], limit)
    if page.goes_on_before is None and floor:
        return ListedEmails(page.rows, floor, is_whole=False)
    if page.goes_on_before is None and any(part.goes_on_before for part in found):
        return ListedEmails(page.rows, page.rows[-1]['id'])
    return page


LIST_THESE_SQL = f"""
{_LISTED} WHERE id = ANY($1::bigint[])
  AND ($2::text IS NULL OR organization_id::text = $2) ORDER BY id DESC
"""


async def list_these(
    pool: asyncpg.Pool, email_ids: Sequence[int], organization_id: str | None
) -> list[dict[str, Any]]:
    """Return e-mails by their ids, the newest first; only this organisation's, if one is given."""
    return rows_of(await pool.fetch(LIST_THESE_SQL, email_ids, organization_id))


OF_ORGANIZATION_SQL = """
SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND organization_id::text = $2
"""


async def ids_of_organization(
    pool: asyncpg.Pool, email_ids: list[int], organization_id: str
) -> set[int]:
    """Return those of these e-mails that are this organisation's."""
    return {row['id'] for row in await pool.fetch(OF_ORGANIZATION_SQL, email_ids, organization_id)}
