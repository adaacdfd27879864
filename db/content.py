"""Templates in PostgreSQL, kept outside the outbox. Attachments in MongoDB: db/mongo.py."""

from collections.abc import Sequence

import asyncpg

from mail_outbox.envelope import Template

TEMPLATES_SQL = """
SELECT id::text, subject, body_text, body_html FROM email_templates WHERE id::text = ANY($1::text[])
"""


async def fetch_templates(pool: asyncpg.Pool, template_ids: Sequence[str]) -> list[Template | None]:
    """Fetch templates; None for each that does not exist.

    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    rows = {row['id']: row for row in await pool.fetch(TEMPLATES_SQL, list(set(template_ids)))}
    return [
        Template(row['subject'], row['body_text'], row['body_html'])
        if (row := rows.get(template_id))
        else None
        for template_id in template_ids
    ]


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
