"""What is held on one person, by the address: found, deleted, or freed of it.

The outbox has no index by address, and texts have addresses: it is read in stretches of its key.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from db.references import AnyConnection, delete_narrowly
from db.states import IS_SENDING
from mail_outbox.envelope import InvalidEmailError, parse_addresses
from mail_outbox.suppression import erased_key

# RFC 6761, 6.4: nothing is ever delivered there.
ERASED = 'erased@erased.invalid'
STRETCH = 1000
# What a local part may have (RFC 5322, 3.2.3), and a domain: xanna@example.com is another person,
# and so is anna@example.com.au.
_BEFORE = r"(?<![[:alnum:]!#$%&'*+/=?^_`{|}~.-])"
_AFTER = r'(?![[:alnum:]-]|[.][[:alnum:]])'


class Person(NamedTuple):
    """An address as it may be written, in lower case: its domain in ASCII, or as it is read."""

    forms: tuple[str, ...]

    @property
    def key(self) -> str:
        """The address as it stands in envelopes and on the suppression list."""
        return self.forms[0]

    @property
    def pattern(self) -> str:
        """A regular expression of PostgreSQL's, for ~*."""
        either = '|'.join(re.sub(r'([^\w@])', r'\\\1', form) for form in self.forms)
        return f'{_BEFORE}({either}){_AFTER}'


def person_of(key: str) -> Person:
    """Return the person of an address.

    Args:
        key: From db.suppressions.suppression_key.
    """
    local, _, domain = key.rpartition('@')
    try:
        readable = domain.encode().decode('idna')
    except UnicodeError:
        readable = domain
    return Person(tuple(dict.fromkeys([key, f'{local}@{readable}'.lower()])))


@dataclass(frozen=True, slots=True)
class PersonalRows:
    """E-mails of one stretch of ids that concern a person.

    Attributes:
        alone: To nobody else: they are deleted.
        shared: To others, too, or with the address somewhere in them: they are freed of it.
        under_way: Of both, that are being sent now.
        last_id: None: there are no more.
    """

    alone: list[int]
    shared: list[int]
    under_way: list[int]
    last_id: int | None


_TO = "concat_ws(',', recipient, cc, bcc)"
_TEXTS = ('subject', 'body_text', 'body_html', 'calendar', 'from_address', 'sender_address',
          'envelope_from', 'reply_to', 'smtp_response', 'last_error', 'feedback')  # fmt: skip
_JSON = ('template_data', 'headers', 'tags', 'metadata')
_ALL = ', '.join(('idempotency_key', *_TEXTS, *(f'{name}::text' for name in _JSON)))
_ELSEWHERE = f"concat_ws(' ', {_ALL})"
# strpos first: it costs a tenth of the regular expression.
FIND_PERSON_SQL = f"""
WITH next AS (
    SELECT id, {IS_SENDING} AS is_sending, lower({_TO}) AS recipients,
        COALESCE(raw_message <> '', false) AS is_raw,
        EXISTS (SELECT FROM unnest($1::text[]) AS f (form)
                WHERE strpos(lower(concat_ws(' ', {_TO}, {_ELSEWHERE})), form) > 0)
            AND concat_ws(' ', {_TO}, {_ELSEWHERE}) ~* $2 AS is_theirs
    FROM mail_outbox WHERE id > $3 ORDER BY id LIMIT $4
), found AS (
    SELECT id, is_sending, recipients ~* $2
        -- a message as given cannot be freed of an address
        AND (is_raw OR regexp_replace(recipients, $2, '', 'gi') !~ '@') AS is_alone
    FROM next WHERE is_theirs
)
SELECT (SELECT max(id) FROM next) AS last_id,
    ARRAY(SELECT id::bigint FROM found WHERE is_alone AND NOT is_sending ORDER BY 1) AS alone,
    ARRAY(SELECT id::bigint FROM found WHERE NOT is_alone AND NOT is_sending ORDER BY 1) AS shared,
    ARRAY(SELECT id::bigint FROM found WHERE is_sending ORDER BY 1) AS under_way
"""


async def find_person(
    pool: asyncpg.Pool, person: Person, after_id: int = 0, batch: int = STRETCH
) -> PersonalRows:
    """Look for a person in one stretch of ids.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; as of the others here.
    """
    [row] = await pool.fetch(FIND_PERSON_SQL, list(person.forms), person.pattern, after_id, batch)
    return PersonalRows(row['alone'], row['shared'], row['under_way'], row['last_id'])


class ErasedRows(NamedTuple):
    """What became of some e-mails; `left` are being sent, or the server kept them."""

    done: int
    content_ids: list[str]
    left: list[int]


LOCK_THESE_SQL = f"""
SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND NOT COALESCE({IS_SENDING}, false)
ORDER BY id FOR UPDATE
"""
ERASE_ROWS_SQL = """
WITH removed AS (
    DELETE FROM mail_outbox WHERE id = ANY($1::bigint[]) RETURNING id, content_id
), attempts AS (
    DELETE FROM email_attempts WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), reported AS (
    DELETE FROM email_feedback WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), attached AS (
    DELETE FROM email_attachments WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
)
SELECT id, content_id FROM removed
"""


async def erase_rows(pool: asyncpg.Pool, email_ids: Sequence[int]) -> ErasedRows:
    """Delete e-mails with all that belongs to them."""
    async with pool.acquire() as conn, conn.transaction():
        ids = [row['id'] for row in await conn.fetch(LOCK_THESE_SQL, list(email_ids))]
        gone = await delete_narrowly(conn, ids, lambda some: conn.fetch(ERASE_ROWS_SQL, some))
    content = [row['content_id'] for row in gone.done if row['content_id'] is not None]
    left = set(email_ids) - {row['id'] for row in gone.done}
    return ErasedRows(len(gone.done), content, sorted(left))


def _freed(column: str) -> str:
    return f"{column} = regexp_replace({column}, $5, $6, 'gi')"


def _freed_json(column: str) -> str:
    # An adopted column may be json, jsonb or text: the row's type knows.
    text = f"regexp_replace({column}::text, $5, $6, 'gi')::jsonb"
    made = f"json_populate_record(NULL::mail_outbox, json_build_object('{column}', {text}))"
    return f'{column} = CASE WHEN {column}::text ~* $5 THEN ({made}).{column} ELSE {column} END'


READ_FIELDS_SQL = f"""
SELECT id, recipient, cc, bcc FROM mail_outbox
WHERE id = ANY($1::bigint[]) AND NOT COALESCE({IS_SENDING}, false) ORDER BY id FOR UPDATE
"""
FREE_ROW_SQL = f"""
UPDATE mail_outbox
SET recipient = $2::text, cc = $3::text, bcc = $4::text, {', '.join(map(_freed, _TEXTS))},
    {', '.join(map(_freed_json, _JSON))},
    idempotency_key = CASE WHEN idempotency_key !~* $5 THEN idempotency_key END,
    recipient_outcomes = NULLIF(COALESCE((
        SELECT jsonb_object_agg(key, value) FROM jsonb_each(CASE
            WHEN jsonb_typeof(recipient_outcomes) = 'object' THEN recipient_outcomes END)
        WHERE key !~* $5), '{{}}')
        -- settled: nobody tries to send to it
        || CASE WHEN $2::text = $6
                THEN jsonb_build_object($6, jsonb_build_array('rejected', 'erased'))
           ELSE '{{}}' END, '{{}}')
WHERE id = $1::bigint
"""
FREE_ATTEMPTS_SQL = """
UPDATE email_attempts SET reply = regexp_replace(reply, $2, $3, 'gi'),
    error = regexp_replace(error, $2, $3, 'gi')
WHERE email_id = $1 AND concat_ws(' ', reply, error) ~* $2
"""


async def free_rows(pool: asyncpg.Pool, email_ids: Sequence[int], person: Person) -> ErasedRows:
    """Take a person out of e-mails that have other recipients, and out of their texts.

    Nothing is sent to the address any more; the others get, or have got, the e-mail.
    """
    async with pool.acquire() as conn, conn.transaction():
        rows = await conn.fetch(READ_FIELDS_SQL, list(email_ids))
        for row in rows:
            await _free_row(conn, row, person)
    left = set(email_ids) - {row['id'] for row in rows}
    return ErasedRows(len(rows), [], sorted(left))


async def _free_row(conn: AnyConnection, row: asyncpg.Record, person: Person) -> None:
    recipient, cc, bcc = (_without(row[name], person) for name in ('recipient', 'cc', 'bcc'))
    if row['recipient'] and not recipient:  # others are in Cc or Bcc alone
        recipient = ERASED
    pattern = person.pattern
    await conn.execute(FREE_ROW_SQL, row['id'], recipient, cc, bcc, pattern, ERASED)
    await conn.execute(FREE_ATTEMPTS_SQL, row['id'], pattern, ERASED)


def _without(text: str | None, person: Person) -> str | None:
    """Return an address list without a person, whose name goes with the address."""
    if not text or not any(form in text.lower() for form in person.forms):
        return text
    try:
        others = [one for one in parse_addresses('', text) if one.address.lower() != person.key]
    except InvalidEmailError:  # it could never be sent: nothing of it is needed
        return None
    return ', '.join(_written(*one) for one in others) or None


def _written(name: str, address: str) -> str:
    quoted = re.sub(r'(["\\])', r'\\\1', name)
    return f'"{quoted}" <{address}>' if name else address


# In details and problems; what else an entry says stays.
FREE_AUDIT_SQL = """
UPDATE mail_audit SET details = regexp_replace(details::text, $1, $2, 'gi')::jsonb,
    problem = regexp_replace(problem, $1, $2, 'gi')
WHERE concat_ws(' ', details::text, problem) ~* $1
"""
ERASE_FEEDBACK_SQL = """
DELETE FROM email_feedback WHERE concat_ws(' ', recipient, diagnostic) ~* $1
"""
# Also those that wait: a program of others would hold the address from then on.
ERASE_DELIVERIES_SQL = """
DELETE FROM mail_webhook_deliveries WHERE concat_ws(' ', payload::text, answer, error) ~* $1
"""
ERASE_REQUESTS_SQL = 'DELETE FROM mail_api_requests WHERE idempotency_key ~* $1'
# The newer entry wins where the person was put on the list again.
HASH_SUPPRESSION_SQL = """
WITH known AS (DELETE FROM email_suppressions WHERE address = $1 RETURNING *)
INSERT INTO email_suppressions (address, reason, source, created_at, created_by, expires_at)
SELECT $2, regexp_replace(reason, $3, $4, 'gi'), source, created_at, created_by, expires_at
FROM known
ON CONFLICT (address) DO UPDATE SET reason = EXCLUDED.reason, source = EXCLUDED.source,
    created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
RETURNING address
"""
HASH_TYPE_SUPPRESSIONS_SQL = (
    HASH_SUPPRESSION_SQL.replace('email_suppressions', 'email_type_suppressions')
    .replace('(address, reason', '(address, email_type, reason')
    .replace('SELECT $2,', 'SELECT $2, email_type,')
    .replace('(address)', '(address, email_type)')
)
COUNT_ELSEWHERE_SQL = """
SELECT
    (SELECT count(*) FROM mail_audit WHERE concat_ws(' ', details::text, problem) ~* $1) AS audit,
    (SELECT count(*) FROM email_feedback WHERE concat_ws(' ', recipient, diagnostic) ~* $1)
        AS feedback,
    (SELECT count(*) FROM mail_webhook_deliveries
     WHERE concat_ws(' ', payload::text, answer, error) ~* $1) AS deliveries,
    (SELECT count(*) FROM mail_api_requests WHERE idempotency_key ~* $1) AS requests,
    (SELECT count(*) FROM email_suppressions WHERE address = $2)
        + (SELECT count(*) FROM email_type_suppressions WHERE address = $2) AS suppressions
"""


class Elsewhere(NamedTuple):
    """How many entries outside the outbox name a person."""

    audit: int
    feedback: int
    deliveries: int  # to webhooks
    requests: int
    suppressions: int  # of all mail, and of types


async def count_elsewhere(pool: asyncpg.Pool, person: Person) -> Elsewhere:
    """Count them."""
    [row] = await pool.fetch(COUNT_ELSEWHERE_SQL, person.pattern, person.key)
    return Elsewhere(*row)


async def erase_elsewhere(pool: asyncpg.Pool, person: Person) -> Elsewhere:
    """Erase them, in one transaction; a suppression goes on under a hash of the address."""
    async with pool.acquire() as conn, conn.transaction():
        audit = await conn.execute(FREE_AUDIT_SQL, person.pattern, ERASED)
        feedback = await conn.execute(ERASE_FEEDBACK_SQL, person.pattern)
        deliveries = await conn.execute(ERASE_DELIVERIES_SQL, person.pattern)
        requests = await conn.execute(ERASE_REQUESTS_SQL, person.pattern)
        names, hashed = (person.key, erased_key(person.key), person.pattern, ERASED), 0
        for sql in (HASH_SUPPRESSION_SQL, HASH_TYPE_SUPPRESSIONS_SQL):
            hashed += len(await conn.fetch(sql, *names))
    done = _affected(audit), _affected(feedback), _affected(deliveries), _affected(requests)
    return Elsewhere(*done, hashed)


def _affected(tag: str) -> int:
    return int(tag.rpartition(' ')[2])
