"""The INSERT into the outbox, for every driver, from one tuple of columns.

A value that an application may give is one line in COLUMNS, and one in checked_row, which names it.
"""

import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


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
    *_from_json('template_data', 'headers'),
    *_as_given('content_id', 'priority', 'max_attempts'),
    StoredColumn('next_retry_at', _STARTS_AT),
    StoredColumn(
        'expires_at', f'COALESCE(CAST({{expires_at}} AS timestamptz), {_STARTS_AT} + {_LIFE})'
    ),
    *_as_given('user_id', 'organization_id', 'idempotency_key'),
    *_as_given('from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc'),
    StoredColumn('status', "'pending'"),
)


class Statement:
    """SQL in which {name} stands for a value, to be written as a driver wants it."""

    def __init__(self, template: str) -> None:
        self.template = template
        named = (name for _, name, _, _ in string.Formatter().parse(template) if name)
        self.parameters = tuple(dict.fromkeys(named))  # each once, in their order

    def written(self, placeholder: Callable[[str], str]) -> str:
        """Return the SQL with placeholder(name) for each value."""
        return self.template.format_map({name: placeholder(name) for name in self.parameters})

    def numbered(self) -> str:
        """Return the SQL with $1, $2 ... in the order of `parameters`."""
        return self.written(lambda name: f'${self.parameters.index(name) + 1}')

    def in_order(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a row's values in the order of `parameters`."""
        return tuple(row[name] for name in self.parameters)


# The first id is returned when the key is known: DO UPDATE, because DO NOTHING would return no row.
QUEUE = Statement(f"""
INSERT INTO mail_outbox ({', '.join(column.name for column in COLUMNS)})
VALUES ({', '.join(column.value for column in COLUMNS)})
ON CONFLICT (organization_id, idempotency_key) WHERE idempotency_key IS NOT NULL
DO UPDATE SET idempotency_key = mail_outbox.idempotency_key
RETURNING id
""")  # noqa: S608 - made of constants
