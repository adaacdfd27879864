"""The INSERT into the outbox, for every driver, from one tuple of columns.

A value that an application may give is one line in COLUMNS, and one in checked_row, which names it.
"""

from typing import NamedTuple

from mail_outbox.statement import Statement


class StoredColumn(NamedTuple):
    """A column of the view `mail_outbox`, and the SQL that its value is made by.

    In it stands {name} for the value of that name out of checked_row. Where it stands alone, it
    has the column's type, whatever an adopted table made of it; elsewhere it needs a CAST (not ::,
    which SQLAlchemy takes for a parameter of its own).
    """

    name: str
    value: str


def _as_given(*names: str) -> tuple[StoredColumn, ...]:
    return tuple(StoredColumn(name, f'{{{name}}}') for name in names)


def _from_json(*names: str) -> tuple[StoredColumn, ...]:
    """Columns that are given as JSON text: the connection may have any codec for jsonb, or none."""
    return tuple(StoredColumn(name, f'CAST(CAST({{{name}}} AS text) AS jsonb)') for name in names)


_STARTS_AT = 'COALESCE(CAST({send_at} AS timestamptz), now())'
_LIFE = "CAST({expiry_hours} AS float8) * interval '1 hour'"
COLUMNS = (
    *_as_given('recipient', 'subject', 'body_text', 'body_html', 'email_type', 'template_id'),
    *_from_json('template_data', 'headers', 'tags', 'metadata'),
    *_as_given('content_id', 'message_id', 'priority', 'max_attempts'),
    StoredColumn('next_retry_at', _STARTS_AT),
    StoredColumn(
        'expires_at', f'COALESCE(CAST({{expires_at}} AS timestamptz), {_STARTS_AT} + {_LIFE})'
    ),
    *_as_given('user_id', 'organization_id', 'idempotency_key', 'content_digest', 'queued_by'),
    *_as_given('from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc'),
    *_as_given('locale', 'template_version', 'traceparent'),
    *_as_given('has_attachments', 'one_copy_each', 'calendar', 'raw_message'),
    StoredColumn('status', "'pending'"),
)

# The application's own: its columns may be numbers, texts or UUIDs, and so may what it gives.
IDS = ('template_id', 'user_id', 'organization_id')

_NAMES = ', '.join(column.name for column in COLUMNS)
_VALUES = ', '.join(column.value for column in COLUMNS)
# The first id is returned when the key is known: DO UPDATE, because DO NOTHING would return no row.
_KNOWN_KEY = """
ON CONFLICT (organization_id, idempotency_key) WHERE idempotency_key IS NOT NULL
DO UPDATE SET idempotency_key = mail_outbox.idempotency_key
RETURNING id, content_digest
"""


def _from_row(name: str) -> str:
    """Return where a value stands in a row given as JSON.

    A column's own value is in `r`, in the column's type; what another value is made of is text.
    """
    if StoredColumn(name, f'{{{name}}}') in COLUMNS:
        return f'r.{name}'
    return f"(given.value ->> '{name}')"


_FROM_ROWS = Statement(_VALUES).written(_from_row)
QUEUE_MANY = Statement(f"""
INSERT INTO mail_outbox ({_NAMES})
SELECT {_FROM_ROWS}
FROM json_array_elements(CAST(CAST({{rows}} AS text) AS json))
    WITH ORDINALITY AS given (value, place),
    json_populate_record(CAST(NULL AS mail_outbox), given.value) AS r
ORDER BY given.place {_KNOWN_KEY}""")  # noqa: S608 - constants
QUEUE = Statement(
    f'INSERT INTO mail_outbox ({_NAMES}) VALUES ({_VALUES}) {_KNOWN_KEY}',  # noqa: S608 - constants
    many=QUEUE_MANY,
    literals=IDS,
)

# Only to a row that this INSERT made: where the key is known, the first e-mail has its own.
ATTACH = Statement("""
INSERT INTO email_attachments (email_id, position, filename, content_type, cid, data)
SELECT id, CAST({position} AS integer), CAST({filename} AS text), CAST({content_type} AS text),
    CAST({cid} AS text), CAST({data} AS bytea)
FROM mail_outbox WHERE id = CAST({email_id} AS bigint) AND has_attachments
ON CONFLICT (email_id, position) DO NOTHING
""")
