"""An application's words for the states: how its `status` is read, and what it may show."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from db.adoption.columns import Column
from db.adoption.quoting import literal, quoted
from db.states import OURS, RETRYABLE
from mail_outbox.states import Status

# Words that applications have for a state besides its own.
OTHER_WORDS: Mapping[Status, tuple[str, ...]] = {
    Status.SENDING: ('processing', 'in_progress'),
    Status.CANCELLED: ('canceled',),
}
# For each state the words that applications have for it, the most usual first.
SYNONYMS: Mapping[Status, tuple[str, ...]] = {
    status: (status.value, *OTHER_WORDS.get(status, ())) for status in OURS
}
NEEDED = (Status.PENDING, Status.SENT, Status.FAILED)
# What is shown instead of a state that the application has no word for: nobody sends it, and an
# operator may try again. None: the word that stands there stays.
SHOWN_INSTEAD: Mapping[Status, Status | None] = {
    status: Status.FAILED if status in RETRYABLE else None
    for status in OURS
    if status not in NEEDED
}
NO_WORD = 'no-such-word'  # what a column that takes this takes, it takes any


@dataclass(frozen=True, slots=True)
class Words:
    """How `status` is read and written.

    A column of text takes any word, but an application may fail when it reads one that it does not
    know, so only those that stand in the table, or that an operator named, are shown.
    """

    read: Mapping[str, str]  # the application's word in lower case -> our state
    shown: Mapping[
        str, str | None
    ]  # our state -> the word that is shown; None: what stands there stays
    hidden: (
        str | None
    )  # the word of an e-mail of ours that the other system must not pick up; None: it has none

    def as_json(self) -> dict[str, Any]:
        """Return what from_json reads."""
        return asdict(self)


def from_json(stored: Mapping[str, Any]) -> Words:
    """Read what as_json wrote."""
    return Words(stored['read'], stored['shown'], stored['hidden'])


def choose_words(
    known: Iterable[str],
    given: Mapping[str, str] | None = None,
    *,
    hidden_anyway: str | None = None,
) -> Words:
    """Decide from the words that the application knows.

    Args:
        known: Its words, in their own case.
        given: What an operator says of words that are not in SYNONYMS: word -> state.
        hidden_anyway: The word that hides e-mails where the application is not known to have one
            for `sending`.
    """
    # What an operator types by hand is understood, whether the application knows the word or not.
    read: dict[str, str] = {word: state for state, words in SYNONYMS.items() for word in words}
    read |= {word.lower(): state for word, state in (given or {}).items()}
    known = set(known)
    own: dict[str, str] = {}
    for state in SYNONYMS:
        words = [word for word in known if read.get(word.lower()) == state]
        if words:
            own[state] = min(words, key=lambda word: _rank(state, word))
    shown: dict[str, str | None] = {}
    for state in SYNONYMS:
        instead = SHOWN_INSTEAD.get(state)
        shown[state] = own.get(state) or (own.get(instead) if instead else None)
    hidden = own.get('sending') or hidden_anyway
    if hidden is not None:
        read.setdefault(hidden.lower(), 'sending')
    return Words(read, shown, hidden)


def _rank(state: Status, word: str) -> tuple[int, str]:
    synonyms = SYNONYMS[state]
    return (synonyms.index(word.lower()) if word.lower() in synonyms else -1), word


COUNT_WORDS_SQL = (
    'SELECT status::text AS word, count(*) AS emails FROM outbound_emails GROUP BY 1 ORDER BY 1'
)


async def count_words(conn: asyncpg.Connection) -> dict[str | None, int]:
    """Count the e-mails by what stands in status."""
    return {row['word']: row['emails'] for row in await conn.fetch(COUNT_WORDS_SQL)}


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


async def refusing_checks(
    conn: asyncpg.Connection, columns: Mapping[str, Column], words: Words
) -> list[str]:
    """Name the CHECKs over status and other columns that would refuse what this program writes."""
    reasons = []
    for check in await conn.fetch(STATUS_CHECKS_SQL):
        if check['columns'] == ['status']:
            continue
        async with _probe(conn, check['columns'], [check['definition']]):
            for state, written in WRITTEN.items():
                if (word := words.shown.get(state)) is None:
                    continue
                values = {'status': literal(word)}
                for name in check['columns']:
                    if name in ALWAYS or name in written:
                        values[name] = written.get(name) or ALWAYS[name]
                    elif name != 'status' and columns[name].is_not_null:
                        values[name] = f'(SELECT {quoted(name)} FROM outbound_emails LIMIT 1)'
                if not await _takes(conn, values):
                    reasons.append(
                        f'CHECK {check["name"]} wants of e-mails that are {word} what this program '
                        'does not write: '
                        f'{check["definition"]}. Drop it'
                    )
    return reasons


def cases(word: str) -> tuple[str, ...]:
    """Return a word as applications write it."""
    return word, word.upper(), word.capitalize()


def candidates() -> list[str]:
    """Return every word that is tried."""
    return [form for words in SYNONYMS.values() for word in words for form in cases(word)]


ENUM_SQL = """
SELECT enumlabel FROM pg_enum WHERE enumtypid = (
    SELECT COALESCE(NULLIF(t.typbasetype, 0), t.oid)
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = 'outbound_emails'::regclass AND a.attname = 'status'
) ORDER BY enumsortorder
"""


async def known_words(
    conn: asyncpg.Connection, counted: Iterable[str | None], named: Iterable[str] = ()
) -> tuple[set[str], bool]:
    """Return the words that the application knows, and whether the column takes others as well.

    An enum and a CHECK tell all of them. Else they are those that stand in the table and those that
    an operator named; pending, sent and failed every application has.
    """
    labels = [row['enumlabel'] for row in await conn.fetch(ENUM_SQL)]
    stand = {word for word in counted if word is not None}
    tried = {*candidates(), *labels, *stand, *named, NO_WORD}
    accepted = await accepted_words(conn, sorted(tried))
    if NO_WORD not in accepted:
        return accepted, False
    upper = bool(stand) and all(word == word.upper() for word in stand)
    basic = {word.upper() if upper else word for word in NEEDED}
    return (basic | stand | set(named)) & accepted, True
