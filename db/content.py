"""Templates in PostgreSQL, kept outside the outbox. Attachments in MongoDB: db/mongo.py."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from mail_outbox.envelope import Template
from mail_outbox.locales import locale_chain
from mail_outbox.template_names import TEMPLATE_NAMES_SQL


class WantedTemplate(NamedTuple):
    """Which template an e-mail wants."""

    template_id: str
    locale: str | None = None
    version: int | None = None  # None: the newest, or the row itself where nothing was pushed


# The best locale is the longest: de-at, de, default.
TEMPLATES_SQL = """
SELECT asked.place, t.subject, t.body_text, t.body_html, c.content::text AS pushed
FROM unnest($1::text[], $2::text[], $3::integer[]) WITH ORDINALITY
    AS asked (id, locales, version, place)
JOIN email_templates AS t ON t.id::text = asked.id
LEFT JOIN LATERAL (
    SELECT max(v.version) AS version FROM email_template_versions AS v
    WHERE v.template_id = asked.id AND (asked.version IS NULL OR v.version = asked.version)
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT content FROM email_template_contents AS m
    WHERE m.template_id = asked.id AND m.version = newest.version
      AND m.locale = ANY(string_to_array(asked.locales, ' '))
    ORDER BY m.locale = 'default', length(m.locale) DESC LIMIT 1
) AS c ON true
WHERE c.content IS NOT NULL OR (newest.version IS NULL AND asked.version IS NULL)
"""


async def fetch_templates(
    pool: asyncpg.Pool, wanted: Sequence[WantedTemplate]
) -> list[Template | None]:
    """Fetch templates; None for each that does not exist, or not in this version.

    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    asked = list(dict.fromkeys(wanted))
    rows = await pool.fetch(
        TEMPLATES_SQL,
        [template.template_id for template in asked],
        [' '.join(locale_chain(template.locale)) for template in asked],
        [template.version for template in asked],
    )
    found = {asked[row['place'] - 1]: _template_from(row) for row in rows}
    return [found.get(template) for template in wanted]


def _template_from(row: asyncpg.Record) -> Template:
    if row['pushed'] is not None:
        return Template(None, None, None, row['pushed'])
    return Template(row['subject'], row['body_text'], row['body_html'])


# An adopted table may have no column `name`.
FIND_TEMPLATES_SQL = """
SELECT asked.word, t.id::text AS id FROM unnest($1::text[]) AS asked (word)
JOIN email_templates AS t ON t.id::text = asked.word OR to_jsonb(t) ->> 'name' = asked.word
ORDER BY asked.word, t.id::text = asked.word DESC
"""


async def find_templates(pool: asyncpg.Pool, words: Sequence[str]) -> list[str | None]:
    """Return the ids of templates given by id or by name; None for each that does not exist.

    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    found: dict[str, str] = {}
    for row in await pool.fetch(FIND_TEMPLATES_SQL, list(set(words))):
        found.setdefault(row['word'], row['id'])
    return [found.get(word) for word in words]


async def template_names(pool: asyncpg.Pool) -> list[str]:
    """Return the names there are, in their order, some hundreds at most.

    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    names: list[str] = json.loads(await pool.fetchval(TEMPLATE_NAMES_SQL))
    return names
