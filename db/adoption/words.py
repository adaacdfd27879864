"""An application's words for the states: how its `status` is read, and what it may show."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from db.adoption.checks import accepted_words
from db.states import CAME_BACK, OURS, RETRYABLE
from mail_outbox.states import Status

# Words that applications have for a state besides its own.
OTHER_WORDS: Mapping[Status, tuple[str, ...]] = {
    Status.SENDING: ('processing', 'in_progress'),
    Status.CANCELLED: ('canceled',),
    Status.COMPLAINED: ('complaint', 'spam'),
}
# For each state the words that applications have for it, the most usual first.
SYNONYMS: Mapping[Status, tuple[str, ...]] = {
    status: (status.value, *OTHER_WORDS.get(status, ())) for status in OURS
}
NEEDED = (Status.PENDING, Status.SENT, Status.FAILED)
# What is shown instead of a state that the application has no word for: nobody sends it, and an
# operator may try again; it was sent, whatever came back. None: the word that stands there stays.
SHOWN_INSTEAD: Mapping[Status, Status | None] = {
    status: Status.FAILED if status in RETRYABLE else None
    for status in OURS
    if status not in NEEDED
} | dict.fromkeys(CAME_BACK, Status.SENT)
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
