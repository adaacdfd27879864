"""What the view `mail_outbox` has, and which columns of an adopted table can serve for it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import asyncpg

INTEGERS = frozenset({'smallint', 'integer', 'bigint'})
TIMES = frozenset({'timestamp with time zone', 'timestamp without time zone'})


class Column(NamedTuple):
    """A column as it is."""

    name: str
    type: str  # without length or precision, of a domain the type below it
    limit: int | None  # of characters
    is_text: bool
    is_enum: bool
    is_not_null: bool


class Wanted(NamedTuple):
    """A column of the view."""

    name: str
    ddl: str  # how it is added where it is missing
    types: frozenset[str] | None = None  # those that serve as they are; None: any
    text: bool = False  # any type of text serves, too
    nullable: bool = False  # this program writes NULL
    unlimited: bool = False  # this program writes long texts
    # Where the application's column cannot serve, ours stands beside it and the trigger keeps
    # theirs up to date.
    mirrored: bool = False


# In the order of db/migrations/0001_outbox.sql.
APPLICATION = (
    Wanted('id', '', INTEGERS),
    Wanted('recipient', '', frozenset(), text=True),
    Wanted('subject', 'text', frozenset(), text=True),
    Wanted('body_text', 'text', frozenset(), text=True),
    Wanted('body_html', 'text', frozenset(), text=True),
    Wanted('email_type', 'text'),
    Wanted('template_id', 'bigint'),
    Wanted('template_data', 'jsonb', frozenset({'json', 'jsonb'}), text=True),
    Wanted('status', 'text', frozenset(), mirrored=True),
    Wanted(
        'smtp_response',
        'text',
        frozenset({'text'}),
        text=True,
        nullable=True,
        unlimited=True,
        mirrored=True,
    ),
    Wanted('smtp_code', 'integer', INTEGERS, nullable=True, mirrored=True),
    Wanted('attempts', 'integer NOT NULL DEFAULT 0', INTEGERS),
    Wanted('max_attempts', 'integer', INTEGERS),
    Wanted('next_retry_at', 'timestamptz', TIMES, nullable=True),
    Wanted('last_attempt_at', 'timestamptz', TIMES),
    Wanted('sent_at', 'timestamptz', TIMES, nullable=True),
    Wanted('expires_at', 'timestamptz', TIMES, nullable=True),
    Wanted('user_id', 'bigint'),
    Wanted('organization_id', 'bigint'),
    Wanted('created_at', 'timestamptz DEFAULT now()', TIMES),
    Wanted('updated_at', 'timestamptz', TIMES),
)
REQUIRED = ('id', 'recipient', 'status')

# A column of such a name that the application has means something else: ours is then called
# mail_<name>.
OURS = (
    Wanted('message_id', 'text'),
    Wanted('message_date', 'timestamptz'),
    Wanted('idempotency_key', 'text'),
    Wanted('headers', 'jsonb'),
    Wanted('content_id', 'text'),
    Wanted('priority', 'smallint NOT NULL DEFAULT 1'),
    Wanted('claim_token', 'uuid'),
    Wanted('claimed_by', 'text'),
    Wanted('claimed_at', 'timestamptz'),
    Wanted('lease_expires_at', 'timestamptz'),
    Wanted('lost_attempts', 'smallint NOT NULL DEFAULT 0'),
    Wanted('relay', 'text'),
    Wanted('enhanced_code', 'text'),
    Wanted('last_error', 'text'),
    Wanted('dead_reason', 'text'),
    Wanted('recipient_outcomes', 'jsonb'),
    # Of db/migrations/0010_message.sql.
    Wanted('from_address', 'text'),
    Wanted('sender_address', 'text'),
    Wanted('envelope_from', 'text'),
    Wanted('reply_to', 'text'),
    Wanted('cc', 'text'),
    Wanted('bcc', 'text'),
    Wanted('one_copy_each', 'boolean'),
    Wanted('tags', 'jsonb'),
    Wanted('metadata', 'jsonb'),
    Wanted('has_attachments', 'boolean'),
    Wanted('calendar', 'text'),
    Wanted('raw_message', 'bytea'),
    # Of db/migrations/0020_templates.sql.
    Wanted('locale', 'text'),
    Wanted('template_version', 'integer'),
    # Of db/migrations/0029_traces.sql.
    Wanted('traceparent', 'text'),
    # Of db/migrations/0011_idempotency.sql.
    Wanted('content_digest', 'bytea'),
    # Of db/migrations/0016_queued_by.sql.
    Wanted('queued_by', 'text'),
    # Of db/migrations/0017_feedback.sql.
    Wanted('feedback_at', 'timestamptz'),
    Wanted('feedback', 'text'),
)
WANTED = (*APPLICATION, *OURS)

COLUMNS_SQL = """
SELECT a.attname AS name, format_type(COALESCE(NULLIF(t.typbasetype, 0), t.oid), NULL) AS type,
    CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4
         THEN a.atttypmod - 4 END AS limit,
    t.typcategory = 'S' AS is_text, t.typcategory = 'E' AS is_enum, a.attnotnull AS is_not_null
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = 'outbound_emails'::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""


async def read_columns(conn: asyncpg.Connection) -> dict[str, Column]:
    """Return the columns of outbound_emails by name.

    Raises:
        asyncpg.UndefinedTableError: there is no such table.
    """
    rows = await conn.fetch(COLUMNS_SQL)
    return {row['name']: Column(*row) for row in rows}


def serves(wanted: Wanted, column: Column) -> bool:
    """Whether this program can read and write a column as it is."""
    if (
        wanted.types is not None
        and column.type not in wanted.types
        and not (wanted.text and column.is_text)
    ):
        return False
    if wanted.nullable and column.is_not_null:
        return False
    return not (wanted.unlimited and column.limit is not None)


def added_columns(columns: Mapping[str, Column]) -> dict[str, str]:
    """Return the columns that expanding adds to a table, with their DDL.

    The table is one that this program has not touched yet.
    """
    added = {}
    for wanted in APPLICATION:
        column = columns.get(wanted.name)
        if column is None:
            added[wanted.name] = wanted.ddl
        elif wanted.mirrored and not serves(wanted, column):
            added[f'mail_{wanted.name}'] = wanted.ddl
    return added | _added_of(OURS, columns)


def _added_of(some: Iterable[Wanted], columns: Collection[str]) -> dict[str, str]:
    return {
        f'mail_{wanted.name}' if wanted.name in columns else wanted.name: wanted.ddl
        for wanted in some
    }


def later_columns(columns: Collection[str], added: Collection[str]) -> dict[str, str]:
    """Return the columns that this version adds to a table that an earlier one has adopted.

    Args:
        added: The columns that the earlier one added.
    """
    return _added_of(
        (w for w in OURS if w.name not in added and f'mail_{w.name}' not in added), columns
    )


def view_columns(added: Collection[str]) -> dict[str, str]:
    """Return which column of the table each column of the view is.

    Args:
        added: The columns that expanding added; a column of the application's may be called
            mail_something, too.
    """
    return {w.name: f'mail_{w.name}' if f'mail_{w.name}' in added else w.name for w in WANTED}


def in_the_way(columns: Collection[str], wanted: Iterable[str]) -> Iterator[str]:
    """Name the columns of the application that are called what expanding would call its own."""
    for name in wanted:
        if name in columns:
            yield f'it has a column {name}, and this program adds one of that name: rename it'


def unsuitable(columns: Mapping[str, Column]) -> Iterator[str]:
    """Say for each column why the table cannot be adopted as it is, and what to do."""
    for name in REQUIRED:
        if name not in columns:
            yield (
                f'it has no column {name}: this is not a table of e-mails, or the column has '
                'another name'
            )
    for wanted in APPLICATION:
        column = columns.get(wanted.name)
        if column is None or wanted.mirrored or serves(wanted, column):
            continue
        if wanted.nullable and column.is_not_null and column.type in (wanted.types or ()):
            yield (
                f'{wanted.name} must take NULL: ALTER TABLE outbound_emails ALTER COLUMN '
                f'{wanted.name} DROP NOT NULL'
            )
        else:
            fits = 'text' if wanted.text else ' or '.join(sorted(wanted.types or ()))
            yield (
                f'{wanted.name} has the type {column.type}, and only {fits} can serve: convert the '
                'column'
            )
    status = columns.get('status')
    if status is not None and not (status.is_text or status.is_enum):
        yield (
            f'status has the type {status.type}, and only text or an enum can serve: convert the '
            'column'
        )
