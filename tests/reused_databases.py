"""Databases that serve one test after another.

Making and dropping one costs ten times what emptying it does.
"""

import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from db.migrate import migrate

END_SESSIONS_SQL = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
TABLES_SQL = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
# Also where the rows were deleted or rolled back: the next test's rows shall lie in the order of
# their insertion.
WRITTEN_SQL = 'SELECT t FROM unnest($1::text[]) AS t WHERE pg_relation_size(t::regclass) > 0'
RESTART_SEQUENCES_SQL = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL
"""
# Whatever a test may have changed by DDL or GRANT, but nothing that TRUNCATE or VACUUM changes.
SCHEMA_SQL = """
WITH relations AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace), parts (part)
    AS (
    SELECT concat_ws(' ', oid, relname, relkind, relacl, reloptions) FROM relations
    UNION ALL SELECT concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod, attnotnull,
        attacl)
        FROM pg_attribute WHERE attrelid IN (SELECT oid FROM relations) AND attnum > 0
    UNION ALL SELECT concat_ws(' ', oid, adrelid, adnum) FROM pg_attrdef
    UNION ALL SELECT concat_ws(' ', oid, conname, convalidated) FROM pg_constraint
    UNION ALL SELECT concat_ws(' ', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', oid, xmin, proname) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', oid, typname) FROM pg_type
        WHERE typnamespace = 'public'::regnamespace
)
SELECT md5(string_agg(part, ',' ORDER BY part)) FROM parts
"""


@dataclass
class ReusedDatabases:
    """Migrated, empty databases on one server, made as copies of a template when none is free."""

    admin_dsn: str
    template: str = field(default_factory=lambda: f'mail_template_{uuid.uuid4().hex[:12]}')
    _free: list[str] = field(default_factory=list)
    _all: list[str] = field(default_factory=list)
    _emptied: list[str] = field(
        default_factory=list
    )  # the tables that have no rows in the template
    _kept: list[str] = field(default_factory=list)  # the others: migrations filled them
    _as_made: list[str] = field(default_factory=list)

    def dsn(self, name: str) -> str:
        return urlunsplit(urlsplit(self.admin_dsn)._replace(path=f'/{name}'))

    async def administer(self, *statements: str) -> None:
        conn = await asyncpg.connect(self.admin_dsn)
        try:
            for statement in statements:
                await conn.execute(statement)
        finally:
            await conn.close()

    async def open(self) -> None:
        await self.administer(f'CREATE DATABASE {self.template}')
        conn = await asyncpg.connect(self.dsn(self.template))
        await migrate(conn, 5)  # EMAIL_MAX_ATTEMPTS=5: a number that rows can come to the end of
        for (table,) in await conn.fetch(TABLES_SQL):
            filled = await conn.fetchval(f'SELECT EXISTS (SELECT FROM {table})')
            (self._kept if filled else self._emptied).append(table)
        self._as_made = await self._unchanging(conn)
        await conn.close()

    async def close(self) -> None:
        await self.administer(
            *(f'DROP DATABASE {name} WITH (FORCE)' for name in (*self._all, self.template))
        )

    async def take(self) -> str:
        """Return the name of a database as it is after the migrations."""
        if self._free:
            return self._free.pop()
        name = f'mail_{uuid.uuid4().hex[:12]}'
        await self.administer(f'CREATE DATABASE {name} TEMPLATE {self.template} STRATEGY wal_log')
        self._all.append(name)
        return name

    async def give_back(self, name: str) -> None:
        """End its sessions and empty it for the next test, or drop it when this one has changed
        more than rows.
        """
        conn = await asyncpg.connect(self.dsn(name))
        try:
            await conn.execute(END_SESSIONS_SQL)
            is_as_made = await self._unchanging(conn) == self._as_made
            if is_as_made:
                written = [table for (table,) in await conn.fetch(WRITTEN_SQL, self._emptied)]
                if written:
                    await conn.execute(f'TRUNCATE {", ".join(written)} CASCADE')
                await conn.execute(RESTART_SEQUENCES_SQL)
        finally:
            await conn.close()
        if is_as_made:
            self._free.append(name)
        else:
            self._all.remove(name)
            await self.administer(f'DROP DATABASE {name} WITH (FORCE)')

    async def _unchanging(self, conn: asyncpg.Connection) -> list[str]:
        rows = [
            await conn.fetchval(
                "SELECT md5(COALESCE(string_agg(t::text, ',' ORDER BY t::text), '')) "
                f'FROM {table} AS t'
            )
            for table in self._kept
        ]
        return [await conn.fetchval(SCHEMA_SQL), *rows]
