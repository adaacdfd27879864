"""Whether a table that was there before can be adopted, and what it needs. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from db.adoption.checks import refusing_checks
from db.adoption.columns import (
    Column,
    added_columns,
    in_the_way,
    later_columns,
    read_columns,
    unsuitable,
)
from db.adoption.indexes import INDEXES, valid_indexes
from db.adoption.phases import Adoption, AdoptionPhase, read_adoption
from db.adoption.status_triggers import plan_remedy
from db.adoption.trigger import Form
from db.adoption.words import NEEDED, Words, choose_words, count_words, known_words
from mail_outbox.envelope import BY_LIFE

MAX_UNKNOWN_NAMED = 10
NOTHING_HIDES = (
    'status has no word for an e-mail that is being sent, so nothing hides ours from the other '
    'system: '
    'until the take-over it also sends what queue_email queues'
)
NEW_WORD = (
    'while both systems run, e-mails of queue_email show the status {!r}, which stands in no row '
    'yet: '
    'if the application fails on words that it does not know, teach it this one first'
)


class NotAdoptableError(Exception):
    """The table cannot serve as it is; nothing was changed."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = list(reasons)
        lines = '\n'.join(f'  - {reason}' for reason in self.reasons)
        super().__init__(
            f'outbound_emails cannot be adopted as it is; nothing was changed:\n{lines}'
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What expanding would do."""

    form: Form
    added: Mapping[str, str]  # columns with their DDL
    indexes: Sequence[str]  # those that are missing
    emails: int
    takes_any_word: bool
    notes: Sequence[str] = field(default_factory=list)


FACTS_SQL = """
SELECT c.relkind, c.relrowsecurity, pg_has_role(c.relowner, 'USAGE') AS is_owner,
    has_schema_privilege(c.relnamespace, 'CREATE') AS may_create,
    pg_get_userbyid(c.relowner) AS owner, current_user AS role,
    EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
        AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = (SELECT attnum FROM pg_attribute
                                                     WHERE attrelid = c.oid
                                                       AND attname = 'id')) AS id_is_unique,
    current_setting('server_version_num')::int AS version
FROM pg_class AS c WHERE c.oid = 'outbound_emails'::regclass
"""
KINDS = {
    b'p': 'it is partitioned: adopt it as a plain table',
    b'v': 'it is a view: its table must have this name',
    b'm': 'it is a materialized view: its table must have this name',
    b'f': 'it is a foreign table: run this in the database where it is kept',
}


async def plan(
    conn: asyncpg.Connection,
    *,
    zone: str,
    max_attempts: int | None,
    given: Mapping[str, str] | None = None,
) -> Plan:
    """Look at a table that was there before, and decide what it needs. Reads only.

    Args:
        zone: What its times without a zone mean.
        max_attempts: Of rows that do not say; None: they are tried until they expire.
        given: What an operator says of the application's words: word -> state.
    Raises:
        NotAdoptableError: names every reason.
        asyncpg.PostgresError: connection or statement failure.
    """
    columns = await read_columns(conn)
    [facts] = await conn.fetch(FACTS_SQL)
    reasons = [*unsuitable(columns), *_table_reasons(facts, columns)]
    adoption = await read_adoption(conn)
    before = adoption.added_columns if adoption else []
    added = later_columns(columns, before) if before else added_columns(columns)
    reasons += in_the_way(columns, added)
    reasons += await _names_taken(conn, adoption)
    words, takes_any = Words({}, {}, None), False
    if 'status' in columns and facts['relkind'] not in KINDS and facts['is_owner']:
        words, takes_any = await _words(conn, columns, given or {}, adoption, reasons)
    if reasons:
        raise NotAdoptableError(reasons)
    names = [*before, *added]
    remedy, watch_notes = await plan_remedy(conn, columns, words.shown)
    form = Form(_with_added(columns, added), names, words, zone, max_attempts or BY_LIFE, remedy)
    emails = await conn.fetchval('SELECT count(*) FROM outbound_emails')
    missing = [name for name in INDEXES if name not in await valid_indexes(conn)]
    notes = [*_notes(form, takes_any), *watch_notes]
    return Plan(form, added, missing, emails, takes_any, notes)


def _table_reasons(facts: asyncpg.Record, columns: Mapping[str, Column]) -> Iterator[str]:
    """Yield why the table itself cannot be adopted."""
    if facts['relkind'] in KINDS:
        yield KINDS[facts['relkind']]
    elif 'id' in columns and not facts['id_is_unique']:
        yield 'id is not unique: ALTER TABLE outbound_emails ADD PRIMARY KEY (id)'
    if not (facts['is_owner'] and facts['may_create']):
        yield f'it belongs to {facts["owner"]}: run this as that role, not as {facts["role"]}'
    if facts['relrowsecurity']:
        yield (
            'row-level security hides rows from this program: ALTER TABLE outbound_emails DISABLE '
            'ROW LEVEL SECURITY'
        )


# What the migrations make. The tables of an earlier adoption that was undone stay, and are ours.
TAKEN_SQL = """
SELECT name, 'table or view' AS kind FROM unnest($1::text[]) AS t (name)
WHERE to_regclass(name) IS NOT NULL
UNION ALL SELECT name, 'function' FROM unnest($2::text[]) AS f (name)
WHERE to_regprocedure(name) IS NOT NULL
"""
RELATIONS = (
    'email_template_versions', 'email_template_contents',
    'mail_outbox', 'email_attempts', 'email_suppressions', 'email_type_suppressions',
    'mail_switches', 'cron_runs',
    'outbox_adoption', 'table_origins', 'mail_service_health', 'mail_api_tokens', 'mail_audit',
    'mail_api_requests', 'allowed_senders', 'email_attachments', 'mail_history',
    'mail_history_progress', 'email_feedback', 'mail_webhooks', 'mail_webhook_deliveries',
    'mail_quotas', 'mail_quota_use', 'mail_alerts',
)  # fmt: skip
FUNCTIONS = (
    'outbox_sync()', 'outbox_state(text)', 'note_attachments()', 'outbox_show_first()',
    'outbox_show_afterwards()', 'mail_webhooks_arm()', 'mail_webhooks_changed()',
    'mail_webhooks_queued()', 'mail_count_quotas()', 'mail_apply_quotas()', 'mail_template(text)',
)  # fmt: skip
MIGRATED_SQL = "SELECT to_regclass('public._pogo_migration') IS NOT NULL"
FIRST_SQL = "SELECT EXISTS (SELECT FROM public._pogo_migration WHERE migration_id LIKE '0001%')"
INDEX_NAMES_SQL = """
SELECT relname FROM pg_class
WHERE relname = ANY($1::text[])
  AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'outbound_emails'::regclass)
"""


async def _names_taken(conn: asyncpg.Connection, adoption: Adoption | None) -> list[str]:
    """Name what the application has under names that this program needs."""
    reasons: list[str] = []
    if not (await conn.fetchval(MIGRATED_SQL) and await conn.fetchval(FIRST_SQL)):
        taken = await conn.fetch(TAKEN_SQL, list(RELATIONS), list(FUNCTIONS))
        reasons += [
            f'there is a {row["kind"]} {row["name"]}, and this program makes one: rename it'
            for row in taken
        ]
    ours = adoption.added_indexes if adoption else []
    taken = await conn.fetch(INDEX_NAMES_SQL, [name for name in INDEXES if name not in ours])
    reasons += [
        f'there is an index {row["relname"]}, and this program makes one: rename it'
        for row in taken
    ]
    return reasons


async def _words(
    conn: asyncpg.Connection,
    columns: Mapping[str, Column],
    given: Mapping[str, str],
    adoption: Adoption | None,
    reasons: list[str],
) -> tuple[Words, bool]:
    counted = await count_words(conn)
    known, takes_any = await known_words(conn, counted, given)
    if (
        adoption and adoption.words and not given
    ):  # decided when the table was expanded: our own words stand in it now
        return adoption.words, takes_any
    words = choose_words(known, given, hidden_anyway='sending' if takes_any else None)
    reasons += await refusing_checks(conn, columns, words.shown)
    reasons += [
        f"status takes no word for {state!r}: --word WORD={state} says what the application's is"
        for state in NEEDED
        if words.shown[state] is None
    ]
    unknown = {
        word: n
        for word, n in counted.items()
        if word is not None and word.lower() not in words.read
    }
    if unknown:
        named = ', '.join(
            f'{word} ({n} rows)' for word, n in list(unknown.items())[:MAX_UNKNOWN_NAMED]
        )
        more = (
            f' and {len(unknown) - MAX_UNKNOWN_NAMED} more'
            if len(unknown) > MAX_UNKNOWN_NAMED
            else ''
        )
        reasons.append(
            f'status holds words this system does not know: {named}{more}. --word WORD=STATE says '
            'what one means '
            '(pending, sent, failed, expired, cancelled), or UPDATE these rows'
        )
    return words, takes_any


def _with_added(columns: Mapping[str, Column], added: Mapping[str, str]) -> dict[str, Column]:
    types = {'timestamptz': 'timestamp with time zone', 'text': 'text', 'integer': 'integer'}
    new = {
        name: Column(
            name,
            types.get(ddl.split()[0], ddl.split()[0]),
            None,
            ddl == 'text',
            is_enum=False,
            is_not_null=False,
        )
        for name, ddl in added.items()
    }
    return {**columns, **new}


def _notes(form: Form, takes_any: bool) -> list[str]:
    hidden = form.words.hidden
    if hidden is None:
        return [NOTHING_HIDES]
    if takes_any and form.words.shown['sending'] is None:
        return [NEW_WORD.format(hidden)]
    return []


OURS_SQL = """
SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = to_regclass('outbound_emails')
  AND NOT attisdropped
AND attname IN ('claim_token', 'lease_expires_at', 'lost_attempts')
"""


ELSEWHERE_SQL = """
SELECT n.nspname AS schema, current_user AS role, current_database() AS database
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'outbound_emails' AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
  AND to_regclass('outbound_emails') IS NULL
LIMIT 1
"""


async def refuse_elsewhere(conn: asyncpg.Connection) -> None:
    """Refuse to make a second outbound_emails where there is one that this session does not see.

    Raises:
        NotAdoptableError: names its schema, and the remedy.
    """
    for row in await conn.fetch(ELSEWHERE_SQL):
        path = (
            f'ALTER ROLE {row["role"]} IN DATABASE {row["database"]} SET search_path = '
            f'{row["schema"]}, public'
        )
        raise NotAdoptableError(
            [f'it is in the schema {row["schema"]}, where this session does not look: {path}']
        )


async def is_adopted(conn: asyncpg.Connection) -> bool:
    """Whether outbound_emails is an application's, and not finished."""
    if await conn.fetchval("SELECT to_regclass('outbound_emails')") is None:
        return False
    adoption = await read_adoption(conn)
    if adoption is None:
        return not await conn.fetchval(OURS_SQL)
    return adoption.phase is not AdoptionPhase.FINISHED
