"""Pushed templates: their versions, what each says by locale, and the rows that e-mails name.

An e-mail names a row of `email_templates`, which may be the application's. Versions stand beside
it; without one, what stands in the row is what is sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from db.states import OVER, sql_list
from db.times import Row, rows_of


class NewVersion(NamedTuple):
    """What is pushed of one template."""

    name: str
    digest: bytes  # of the contents
    contents: Mapping[str, Mapping[str, Any]]  # by locale, see mail/template/pushed.py
    sample: Mapping[str, Any]


LIST_SQL = """
SELECT t.id::text AS id, to_jsonb(t) ->> 'name' AS name, v.version, v.pushed_at, v.pushed_by,
    ARRAY(SELECT c.locale FROM email_template_contents AS c
          WHERE c.template_id = v.template_id AND c.version = v.version
          ORDER BY c.locale <> 'default', c.locale) AS locales
FROM email_templates AS t LEFT JOIN LATERAL (
    SELECT * FROM email_template_versions AS w WHERE w.template_id = t.id::text
    ORDER BY w.version DESC LIMIT 1
) AS v ON true
WHERE $1::text IS NULL OR t.id::text = $1
ORDER BY 2, 1 LIMIT $2
"""


async def list_templates(
    pool: asyncpg.Pool, *, template_id: str | None = None, limit: int
) -> list[Row]:
    """Return templates by name: id, name, and of the newest version its number, time and locales.

    version is None where nothing was pushed.
    """
    return rows_of(await pool.fetch(LIST_SQL, template_id, limit))


VERSIONS_SQL = """
SELECT v.version, v.pushed_at, v.pushed_by,
    ARRAY(SELECT c.locale FROM email_template_contents AS c
          WHERE c.template_id = v.template_id AND c.version = v.version
          ORDER BY c.locale <> 'default', c.locale) AS locales
FROM email_template_versions AS v WHERE v.template_id = $1 ORDER BY v.version DESC LIMIT $2
"""


async def read_versions(pool: asyncpg.Pool, template_id: str, *, limit: int) -> list[Row]:
    """Return the versions of a template, the newest first."""
    return rows_of(await pool.fetch(VERSIONS_SQL, template_id, limit))


SAMPLE_SQL = """
SELECT sample::text FROM email_template_versions
WHERE template_id = $1 AND ($2::integer IS NULL OR version = $2) ORDER BY version DESC LIMIT 1
"""


async def read_sample(pool: asyncpg.Pool, template_id: str, version: int | None) -> str | None:
    """Return the JSON that previews are filled with; None where nothing was pushed."""
    sample: str | None = await pool.fetchval(SAMPLE_SQL, template_id, version)
    return sample


NEWEST_SQL = """
SELECT a.name, t.id::text AS id, v.version, v.digest, v.sample
FROM unnest($1::text[]) AS a (name)
LEFT JOIN email_templates AS t ON to_jsonb(t) ->> 'name' = a.name
LEFT JOIN LATERAL (
    SELECT * FROM email_template_versions AS w WHERE w.template_id = t.id::text
    ORDER BY w.version DESC LIMIT 1
) AS v ON true
"""


async def read_newest(pool: asyncpg.Pool, names: Sequence[str]) -> dict[str, Row]:
    """Return what there is under these names: id, version, digest and sample, each None or not."""
    return {row['name']: row for row in rows_of(await pool.fetch(NEWEST_SQL, list(names)))}


# Pushes of one name wait for each other.
LOCK_SQL = "SELECT pg_advisory_xact_lock(hashtext('email_templates'), hashtext($1))"
INSERT_ROW_SQL = """
INSERT INTO email_templates (name, subject, body_text, body_html) VALUES ($1, $2, $3, $4)
RETURNING id::text
"""
# Where the id is a word and has no default, as an adopted table may have it.
INSERT_NAMED_SQL = """
INSERT INTO email_templates
SELECT (json_populate_record(NULL::email_templates, json_build_object(
    'id', $1::text, 'name', $1::text, 'subject', $2::text, 'body_text', $3::text,
    'body_html', $4::text))).*
RETURNING id::text
"""
INSERT_VERSION_SQL = """
INSERT INTO email_template_versions (template_id, version, digest, sample, made_row, pushed_by)
SELECT $1, COALESCE(max(version), 0) + 1, $2, $3, COALESCE(bool_or(made_row), $4), $5
FROM email_template_versions WHERE template_id = $1
RETURNING version
"""
INSERT_CONTENTS_SQL = """
INSERT INTO email_template_contents (template_id, version, locale, content)
SELECT $1, $2, key, value FROM jsonb_each($3::jsonb)
"""
SET_SAMPLE_SQL = """
UPDATE email_template_versions SET sample = $3 WHERE template_id = $1 AND version = $2
"""


async def push_version(
    pool: asyncpg.Pool, new: NewVersion, *, pushed_by: str | None
) -> tuple[str, int, bool]:
    """Store a version, unless the newest one says the same; make the template where there is none.

    Returns:
        The template's id, its newest version, and whether that is new.
    Raises:
        asyncpg.PostgresError: among others where the application's table takes no such row.
    """
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK_SQL, new.name)
        [row] = await conn.fetch(NEWEST_SQL, [new.name])
        template_id, version = row['id'], row['version']
        if row['digest'] == new.digest:
            if row['sample'] != new.sample:
                await conn.execute(SET_SAMPLE_SQL, template_id, version, dict(new.sample))
            return template_id, version, False
        makes_row = template_id is None
        if makes_row:
            template_id = await _insert_row(conn, new)
        version = await conn.fetchval(
            INSERT_VERSION_SQL, template_id, new.digest, dict(new.sample), makes_row, pushed_by
        )
        await conn.execute(INSERT_CONTENTS_SQL, template_id, version, dict(new.contents))
        return template_id, version, True


async def _insert_row(conn: Any, new: NewVersion) -> str:
    """Make the row that e-mails name, with the sources for who looks at it."""
    content = new.contents['default']
    parts = ('subject', 'body_text', 'body_html')
    sources = [content['files'].get(content[part]) for part in parts]
    try:
        async with conn.transaction():
            template_id: str = await conn.fetchval(INSERT_ROW_SQL, new.name, *sources)
    except asyncpg.NotNullViolationError:
        template_id = await conn.fetchval(INSERT_NAMED_SQL, new.name, *sources)
    return template_id


WAITING_SQL = f"""
SELECT count(*) FROM (
    SELECT FROM mail_outbox WHERE template_id::text = $1
      AND COALESCE(status, '') NOT IN ({sql_list(OVER)})
      AND NOT (status = 'failed' AND next_retry_at IS NULL) LIMIT $2
) AS waiting
"""


async def count_wanting(pool: asyncpg.Pool, template_id: str, limit: int) -> int:
    """Count e-mails that will still want a template, up to a limit."""
    emails: int = await pool.fetchval(WAITING_SQL, template_id, limit)
    return emails


MADE_ROW_SQL = """
SELECT COALESCE(bool_or(made_row), false) FROM email_template_versions WHERE template_id = $1
"""
REMOVE_VERSIONS_SQL = 'DELETE FROM email_template_versions WHERE template_id = $1'
REMOVE_ROW_SQL = 'DELETE FROM email_templates WHERE id::text = $1'


async def remove_template(pool: asyncpg.Pool, template_id: str) -> bool:
    """Delete all versions; the row, too, if a push made it. Returns whether that is so."""
    async with pool.acquire() as conn, conn.transaction():
        made_row: bool = await conn.fetchval(MADE_ROW_SQL, template_id)
        await conn.execute(REMOVE_VERSIONS_SQL, template_id)
        if made_row:
            await conn.execute(REMOVE_ROW_SQL, template_id)
    return made_row
