"""What has triggers of the application see each change of `status` that this program makes.

Where one is on UPDATE OF status, the UPDATE of this program leaves `status` as it is, and a second
one names it. Where all are called by the first UPDATE, that one sets `status` before they are.
"""

import asyncpg

from db.adoption.quoting import case, literal, quoted
from db.adoption.status_triggers import SHOW_AFTERWARDS, SHOW_FIRST, Remedy, triggers_there
from db.adoption.words import Words

# Set for the second UPDATE alone: which e-mail it is about, and how deep in triggers. A trigger of
# the application that it calls, and that writes the e-mail again, is deeper. It ends with the
# statement, so a pooler gives it to nobody else.
SHOWING = 'outbox.showing'
IS_SHOWING = f"current_setting('{SHOWING}', true) = NEW.id || ' ' || (pg_trigger_depth() - 1)"


def shown_word(words: Words, row: str, *, shared: bool) -> str:
    """Return the expression of the word that stands for a row's state in `status`, as text.

    Args:
        row: The name of the row: NEW, or a table's.
        shared: While the other system runs, a row of ours has a word that it does not pick up.
    """
    shown = {state: word for state, word in words.shown.items() if word is not None}
    own_word = case(f'{row}.mail_status', shown, f'{row}.status::text')
    if not shared or words.hidden is None:
        return own_word
    # What looks pending or failed with attempts left is what the other system's sweeps look for.
    looks_open = sorted(
        state
        for state in words.shown
        if words.read.get((words.shown[state] or 'pending').lower(), 'pending')
        in ('pending', 'failed')
    )
    open_states = ', '.join(literal(state) for state in looks_open)
    return f"""CASE WHEN {row}.mail_status IN ({open_states})
        AND NOT ({row}.mail_status = 'failed' AND {row}.attempts >= {row}.max_attempts)
        THEN {literal(words.hidden)} ELSE {own_word} END"""


def show_first_ddl(words: Words, *, shared: bool) -> str:
    """Return the DDL of the function that sets `status` before the application's triggers."""
    return f"""
CREATE OR REPLACE FUNCTION outbox_show_first() RETURNS trigger LANGUAGE plpgsql AS $show$
BEGIN
    NEW.status := {shown_word(words, 'NEW', shared=shared)};
    RETURN NEW;
END
$show$"""


# It runs as the table's owner, who keeps what the application's triggers write to; a role of ours
# with the least rights may not even write to the table. So the path is the owner's as well.
def show_afterwards_ddl(words: Words, *, shared: bool) -> str:
    """Return the DDL of the function that writes `status` after an UPDATE that did not name it.

    One e-mail after the other, as the application did. A word that means the same state stays.
    Ordered: where a trigger counts by status, two batches lock its counters in the same order.
    """
    return f"""
CREATE OR REPLACE FUNCTION outbox_show_afterwards() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $show$
DECLARE
    email record;
    shown outbound_emails.status%TYPE;
    around text := COALESCE(current_setting('{SHOWING}', true), '');
BEGIN
    FOR email IN
        SELECT id, mail_status, word FROM (
            SELECT w.id, w.mail_status, w.status::text AS stands,
                {shown_word(words, 'w', shared=shared)} AS word
            FROM written AS w
            -- A trigger of the application may keep it from showing our word.
            WHERE w.mail_status <> 'external' AND w.id::text <> split_part(around, ' ', 1)
        ) AS ours
        WHERE {case('lower(word)', words.read, 'NULL')}
            IS DISTINCT FROM {case('lower(stands)', words.read, 'NULL')}
        ORDER BY word, id
    LOOP
        shown := email.word;
        PERFORM set_config('{SHOWING}', email.id || ' ' || pg_trigger_depth(), true);
        UPDATE outbound_emails AS e SET status = shown
        WHERE e.id = email.id AND e.mail_status = email.mail_status
          AND e.status IS DISTINCT FROM shown;
        PERFORM set_config('{SHOWING}', around, true);
    END LOOP;
    RETURN NULL;
END
$show$"""


PATH_SQL = "SELECT set_config('search_path', $1, true)"
# Temporary tables last: nobody else's stands for a table of the application's.
SAFE_PATH_SQL = """
SELECT current_setting('search_path') AS path,
    concat_ws(', ', NULLIF(current_setting('search_path'), ''), 'pg_temp') AS safe
"""
OWNER_SQL = """
SELECT pg_get_userbyid(relowner) AS owner, pg_get_userbyid(relowner) <> current_user AS is_other
FROM pg_class WHERE oid = 'outbound_emails'::regclass
"""
OURS_OF_THE_TABLE = {SHOW_FIRST: 'outbox_show_first()', SHOW_AFTERWARDS: 'outbox_show_afterwards()'}
REMOVE_SHOWING_DDL = '\n'.join(
    f'DROP TRIGGER IF EXISTS {quoted(name)} ON outbound_emails; DROP FUNCTION IF EXISTS {function};'
    for name, function in OURS_OF_THE_TABLE.items()
)


async def install_showing(
    conn: asyncpg.Connection, words: Words, remedy: Remedy, *, shared: bool
) -> None:
    """Make the triggers of a remedy with their functions, and remove those that it does without."""
    if remedy.first_of:
        await conn.execute(show_first_ddl(words, shared=shared))
    if remedy.afterwards:
        [paths] = await conn.fetch(SAFE_PATH_SQL)
        await conn.fetch(PATH_SQL, paths['safe'])
        await conn.execute(show_afterwards_ddl(words, shared=shared))
        await conn.fetch(PATH_SQL, paths['path'])
        [table] = await conn.fetch(OWNER_SQL)
        if table['is_other']:
            await conn.execute(
                f'ALTER FUNCTION outbox_show_afterwards() OWNER TO {quoted(table["owner"])}'
            )
    wanted = remedy.triggers
    for ddl in wanted.values():
        await conn.execute(ddl)
    for name in await triggers_there(conn):
        if name in OURS_OF_THE_TABLE and name not in wanted:
            await conn.execute(f'DROP TRIGGER {quoted(name)} ON outbound_emails')
            await conn.execute(f'DROP FUNCTION {OURS_OF_THE_TABLE[name]}')
