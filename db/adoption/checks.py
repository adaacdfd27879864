"""What the type and the CHECKs of an adopted table's `status` take. Nothing is written to it."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from db.adoption.columns import Column
from db.adoption.quoting import literal, quoted

STATUS_CHECKS_SQL = """
SELECT conname AS name, pg_get_constraintdef(oid) AS definition, array(
    SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid
      AND attnum = ANY(conkey)) AS columns
FROM pg_constraint
WHERE conrelid = 'outbound_emails'::regclass AND contype = 'c' AND conkey @> ARRAY[(
    SELECT attnum FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass
      AND attname = 'status')]
ORDER BY 1
"""


@asynccontextmanager
async def _probe(
    conn: asyncpg.Connection, columns: Iterable[str], checks: Iterable[str]
) -> AsyncIterator[None]:
    """Have an empty table outbox_probe with columns of outbound_emails and these CHECKs."""
    listed = ', '.join(quoted(name) for name in columns)
    probing = conn.transaction()
    await probing.start()
    try:
        await conn.execute(
            'CREATE TEMPORARY TABLE outbox_probe ON COMMIT DROP '
            f'AS SELECT {listed} FROM outbound_emails WITH NO DATA'
        )
        for number, check in enumerate(checks):
            await conn.execute(f'ALTER TABLE outbox_probe ADD CONSTRAINT probe{number} {check}')
        yield
    finally:
        await probing.rollback()


async def _takes(conn: asyncpg.Connection, values: Mapping[str, str]) -> bool:
    """Whether the probe takes a row; values are SQL."""
    try:
        async with conn.transaction():
            names = ', '.join(quoted(name) for name in values)
            await conn.execute(
                f'INSERT INTO outbox_probe ({names}) VALUES ({", ".join(values.values())})'
            )
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
        return False
    return True


async def accepted_words(conn: asyncpg.Connection, words: Iterable[str]) -> set[str]:
    """Return those of these words that type and CHECKs of the column status take.

    Nothing is written to the table.

    Raises:
        asyncpg.InsufficientPrivilegeError: this role may make no temporary table.
    """
    checks = [
        row['definition']
        for row in await conn.fetch(STATUS_CHECKS_SQL)
        if row['columns'] == ['status']
    ]
    async with _probe(conn, ['status'], checks):
        return {word for word in words if await _takes(conn, {'status': literal(word)})}


# What this program writes when an e-mail comes into a state, and what every e-mail has.
ALWAYS = {
    'recipient': "'a@example.com'",
    'subject': "'s'",
    'body_text': "'t'",
    'body_html': "'h'",
    'id': '1',
}
TRIED = {
    'attempts': '1',
    'max_attempts': '5',
    'last_attempt_at': 'now()',
    'created_at': 'now()',
    'updated_at': 'now()',
}
WRITTEN: Mapping[str, Mapping[str, str]] = {
    'sending': TRIED,
    'sent': {**TRIED, 'sent_at': 'now()', 'smtp_code': "'250'", 'smtp_response': "'250 ok'"},
    'failed': {**TRIED, 'smtp_code': "'550'", 'smtp_response': "'550 no'"},
}
# Where a second UPDATE sets the status, in between it stands beside what the first one has written.
STATES_BEFORE: Mapping[str, tuple[str, ...]] = {
    'sending': ('pending', 'failed'),
    'sent': ('sending', 'pending'),
    'failed': ('sending', 'pending'),
}
NEXT_TIMES = ('NULL', 'now()')


class Refused(NamedTuple):
    """A CHECK that does not take what this program writes beside a word in `status`."""

    check: str
    definition: str
    word: str


async def refusing_checks(
    conn: asyncpg.Connection, columns: Mapping[str, Column], shown: Mapping[str, str | None]
) -> list[str]:
    """Say which CHECKs over status and other columns would refuse what this program writes.

    Args:
        shown: The application's word for each state.
    """
    rows = [(word, WRITTEN[state]) for state in WRITTEN if (word := shown.get(state))]
    return [
        f'CHECK {check} wants of e-mails that are {word} what this program does not write: '
        f'{definition}. Drop it'
        for check, definition, word in await _refused(conn, columns, rows)
    ]


async def refusing_in_between(
    conn: asyncpg.Connection, columns: Mapping[str, Column], shown: Mapping[str, str | None]
) -> list[str]:
    """Name the CHECKs that refuse the status of before beside what this program writes."""
    rows = [
        (word, {**WRITTEN.get(before, {}), **WRITTEN[state], 'next_retry_at': time})
        for state, befores in STATES_BEFORE.items()
        for before in befores
        if (word := shown.get(before))
        for time in NEXT_TIMES
    ]
    return sorted({refused.check for refused in await _refused(conn, columns, rows)})


async def _refused(
    conn: asyncpg.Connection,
    columns: Mapping[str, Column],
    rows: Sequence[tuple[str, Mapping[str, str]]],
) -> list[Refused]:
    """Try rows of a word and what is written beside it against each CHECK by itself."""
    refused = []
    for check in await conn.fetch(STATUS_CHECKS_SQL):
        if check['columns'] == ['status']:
            continue
        async with _probe(conn, check['columns'], [check['definition']]):
            for word, written in rows:
                values = {'status': literal(word)}
                for name in check['columns']:
                    if name in ALWAYS or name in written:
                        values[name] = written.get(name) or ALWAYS[name]
                    elif name != 'status' and columns[name].is_not_null:
                        values[name] = f'(SELECT {quoted(name)} FROM outbound_emails LIMIT 1)'
                if not await _takes(conn, values):
                    refused.append(Refused(check['name'], check['definition'], word))
    return refused
