"""Sessions of an application: nothing of them goes unasked, and nothing that anything refers to."""

from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from db.sessions import BLOCKS
from jobs.cleanup_old_sessions import cleanup_old_sessions
from tests.services.other_worker import another

OLD = "now() - interval '91 days', now() - interval '1 day'"
ADOPTED = "UPDATE table_origins SET made_here = false WHERE name IN ('sessions', 'refresh_tokens')"


async def clean(ctx: dict[str, Any], *named: str) -> dict[str, Any]:
    runtime = another(ctx['runtime'], session_tables=frozenset(named))
    return await cleanup_old_sessions({'runtime': runtime})


async def fill(pool: Any, table: str, rows: int = 3, values: str = OLD) -> None:
    await pool.execute(
        (
            f'INSERT INTO {table} (created_at, expires_at) SELECT {values} FROM '
            'generate_series(1, $1::int)'
        ),
        rows,
    )


async def count(pool: Any, table: str) -> int:
    return await pool.fetchval(f'SELECT count(*) FROM {table}')


async def make(
    pool: Any, table: str, columns: str = 'created_at timestamptz, expires_at timestamptz'
) -> None:
    await pool.execute(f'CREATE TABLE {table} (id bigserial PRIMARY KEY, {columns})')


async def test_sessions_that_were_there_before_are_left_alone_until_a_setting_names_them(ctx, pool):
    await pool.execute(ADOPTED)
    await fill(pool, 'sessions')
    for _ in range(3):
        assert await clean(ctx) == {'affected': 0, 'sessions': 0, 'refresh_tokens': 0}
    assert await count(pool, 'sessions') == 3
    assert (
        await pool.fetchval("SELECT reported_at FROM table_origins WHERE name = 'sessions'") is None
    )


@pytest.mark.parametrize('name', ['sessions', 'public.sessions'])
async def test_first_run_over_a_named_table_reports_and_the_next_deletes(ctx, pool, name: str):
    await pool.execute(ADOPTED)
    await fill(pool, 'sessions', 40)
    await fill(pool, 'sessions', 2, "now() - interval '1 year', NULL")
    with capture_logs() as lines:
        first = await clean(ctx, name)
    assert (first['affected'], first['reported']) == (0, {name: 40})
    assert {
        'event': 'cleanup.reported',
        'log_level': 'warning',
        'table': name,
        'rows': 40,
    } in lines
    assert await count(pool, 'sessions') == 42
    origin = await pool.fetchrow("SELECT * FROM table_origins WHERE name = 'sessions'")
    assert (origin['made_here'], origin['reported_rows']) == (False, 40)
    assert origin['reported_at'] is not None
    second = await clean(ctx, name)
    assert (second['affected'], second[name], 'reported' in second) == (40, 40, False)
    assert await count(pool, 'sessions') == 2


async def test_a_table_named_twice_still_only_reports_first(ctx, pool):
    await pool.execute(ADOPTED)
    await fill(pool, 'sessions')
    assert (await clean(ctx, 'sessions', 'public.sessions'))['affected'] == 0
    assert await count(pool, 'sessions') == 3


async def test_tables_of_other_schemas_and_of_odd_names_are_cleaned_when_they_are_named(ctx, pool):
    await pool.execute('CREATE SCHEMA app')
    for table in ('app.logins', '"Logins"'):
        await make(pool, table)
        await fill(pool, table)
    names = ('app.logins', 'Logins')
    assert (await clean(ctx, *names))['reported'] == {'app.logins': 3, 'Logins': 3}
    assert (await clean(ctx, *names))['affected'] == 6


@pytest.mark.parametrize(
    ('columns', 'told'),
    [
        ('created_at timestamptz', 'logins has no column expires_at'),
        ('expires_at timestamptz', 'logins has no column created_at'),
        ('created_at timestamptz, expires_at bigint', 'logins.expires_at is of the type bigint'),
        ('created_at text, expires_at timestamptz', 'logins.created_at is of the type text'),
    ],
)
async def test_a_table_that_does_not_tell_what_is_over_is_named_and_the_others_are_cleaned(
    ctx, pool, columns: str, told: str
):
    await make(pool, 'logins', columns)
    await fill(pool, 'sessions')
    done = await clean(ctx, 'logins', 'nowhere')
    assert done['notes']['logins'].startswith(told)
    assert done['notes']['nowhere'] == 'there is no table nowhere'
    assert (done['affected'], done['sessions']) == (3, 3)


async def test_a_view_is_not_cleaned(ctx, pool):
    await pool.execute('CREATE VIEW logins AS SELECT created_at, expires_at FROM sessions')
    assert (await clean(ctx, 'logins'))['notes']['logins'].startswith('logins is no table')


@pytest.mark.parametrize('type_', ['timestamp', 'date', 'moment'])
async def test_naive_times_and_domains_tell_what_is_over(ctx, pool, type_: str):
    await pool.execute('CREATE DOMAIN moment AS timestamptz')
    await make(pool, 'logins', f'created_at {type_}, expires_at {type_}')
    await fill(pool, 'logins', 2, "now() - interval '91 days', now() - interval '2 days'")
    await fill(pool, 'logins', 1, "now() - interval '91 days', now() + interval '2 days'")
    await fill(pool, 'logins', 1, "now() - interval '91 days', 'infinity'")
    await clean(ctx, 'logins')
    assert (await clean(ctx, 'logins'))['logins'] == 2
    assert await count(pool, 'logins') == 2


@pytest.mark.parametrize('action', ['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT'])
async def test_rows_that_others_refer_to_are_stepped_over_whatever_the_key_says(
    ctx, pool, action: str
):
    await fill(pool, 'sessions', 10)
    await pool.execute(
        f'CREATE TABLE carts (session_id bigint REFERENCES sessions ON DELETE {action})'
    )
    await pool.execute('INSERT INTO carts SELECT id FROM sessions WHERE id % 5 = 0')
    done = await clean(ctx)
    assert (done['sessions'], done['held']) == (8, {'sessions': 2})
    assert await pool.fetchval('SELECT count(session_id) FROM carts') == 2


async def test_keys_of_several_columns_and_to_the_table_itself_hold_rows(ctx, pool):
    await pool.execute(
        'ALTER TABLE sessions ADD UNIQUE (user_id, id), ADD parent bigint REFERENCES sessions'
    )
    await fill(pool, 'sessions', 6)
    await pool.execute(
        'UPDATE sessions SET user_id = 7, parent = CASE id WHEN 1 THEN 1 WHEN 3 THEN 2 END'
    )
    await pool.execute(
        'CREATE TABLE carts (u bigint, s bigint, '
        'FOREIGN KEY (u, s) REFERENCES sessions (user_id, id) ON DELETE CASCADE)'
    )
    await pool.execute('INSERT INTO carts VALUES (7, 5), (7, NULL), (NULL, 6)')
    done = await clean(ctx)
    assert (done['sessions'], done['held']) == (4, {'sessions': 2})
    assert await pool.fetchval('SELECT array_agg(id ORDER BY id) FROM sessions') == [2, 5]


async def test_one_row_that_a_trigger_keeps_does_not_keep_the_rest(ctx, pool):
    await fill(pool, 'sessions', 50)
    await pool.execute(
        'CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS '
        "$$BEGIN RAISE EXCEPTION 'row % is on legal hold', OLD.id; END$$"
    )
    await pool.execute(
        'CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW WHEN (OLD.id IN (7, '
        '31)) EXECUTE FUNCTION keep()'
    )
    done = await clean(ctx)
    assert (done['sessions'], done['refused']) == (48, {'sessions': 2})
    assert 'row 7 is on legal hold' in done['notes']['sessions']
    assert await pool.fetchval('SELECT array_agg(id ORDER BY id) FROM sessions') == [7, 31]


async def test_every_block_and_every_partition_is_cleaned(ctx, pool):
    await pool.execute(
        'CREATE TABLE logins (id bigint, created_at timestamptz, expires_at timestamptz, pad text) '
        'PARTITION BY HASH (id)'
    )
    for n in range(2):
        await pool.execute(
            f'CREATE TABLE logins_{n} PARTITION OF logins FOR VALUES WITH (MODULUS 2, '
            f'REMAINDER {n})'
        )
    await pool.execute(
        f"INSERT INTO logins SELECT n, {OLD}, repeat('x', 1900) FROM generate_series(1, 2000) AS n"
    )
    blocks = await pool.fetchval("SELECT pg_relation_size('logins_0') / 8192")
    assert blocks > BLOCKS  # more than one batch
    assert (await clean(ctx, 'logins'))['reported'] == {'logins': 2000}
    assert (await clean(ctx, 'logins'))['logins'] == 2000
    assert await count(pool, 'logins') == 0


@pytest.fixture
async def less(ctx: Any, pool: Any, database: Any) -> Any:
    """The worker under a role with only these rights."""
    role, opened = f'{database.name}_worker', []

    async def less(*rights: str) -> dict[str, Any]:
        await pool.execute(f'CREATE ROLE {role}')
        for right in ('SELECT ON table_origins', *rights):
            await pool.execute(f'GRANT {right} TO {role}')
        opened.append(
            await asyncpg.create_pool(
                database.dsn, min_size=0, max_size=2, server_settings={'role': role}
            )
        )
        return {'runtime': another(ctx['runtime'], pool=opened[0])}

    yield less
    opened[0].terminate()
    await pool.execute(f'DROP OWNED BY {role}; DROP ROLE {role}')


async def test_a_role_that_must_not_look_at_what_cascades_deletes_nothing(pool, less):
    await fill(pool, 'sessions')
    await fill(pool, 'refresh_tokens')
    await pool.execute(
        'CREATE TABLE carts (session_id bigint REFERENCES sessions ON DELETE CASCADE)'
    )
    await pool.execute('CREATE TABLE uses (token_id bigint REFERENCES refresh_tokens)')
    await pool.execute('INSERT INTO uses SELECT min(id) FROM refresh_tokens')
    done = await cleanup_old_sessions(await less('SELECT, DELETE ON sessions, refresh_tokens'))
    # What only the server knows is found by asking it.
    assert (done['sessions'], done['refresh_tokens'], done['refused']) == (
        0,
        2,
        {'refresh_tokens': 1},
    )
    assert 'GRANT SELECT ON carts' in done['notes']['sessions']


async def test_a_role_that_sees_only_the_times_cleans_our_own_tables_and_no_others(pool, less):
    await pool.execute("UPDATE table_origins SET made_here = false WHERE name = 'refresh_tokens'")
    await fill(pool, 'sessions')
    await fill(pool, 'refresh_tokens')
    ctx = await less('SELECT (created_at, expires_at), DELETE ON sessions, refresh_tokens')
    done = await clean(ctx, 'refresh_tokens')
    assert (done['sessions'], done['refresh_tokens']) == (3, 0)
    assert 'GRANT SELECT, DELETE ON refresh_tokens' in done['notes']['refresh_tokens']


async def test_a_row_that_the_application_holds_is_left_for_the_next_run(ctx, pool):
    await fill(pool, 'sessions', 20)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('SELECT FROM sessions WHERE id = 9 FOR UPDATE')
        done = await clean(ctx)
    assert (done['sessions'], done['refused']) == (19, {'sessions': 1})
    assert (await clean(ctx))['sessions'] == 1
