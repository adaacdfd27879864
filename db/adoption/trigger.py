"""The trigger that keeps `status` and our `mail_status` in step, and the view over both."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import asyncpg

from db.adoption.columns import WANTED, Column, view_columns
from db.adoption.quoting import case, literal, quoted
from db.adoption.showing import IS_SHOWING, install_showing, shown_word
from db.adoption.status_triggers import NO_REMEDY, SYNC, Remedy
from db.adoption.words import Words
from db.states import ACCEPTED, OVER, TRIED, sql_list
from mail_outbox.states import Status

# Who may do something with the table may do the same with the view. Not security_invoker: an INSERT
# through such a view asks for the right to read every column of the table, which an application
# that only queues mail does not have.
VIEW_RIGHTS_DDL = """
DO $rights$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.privilege_type AS privilege, '' AS columns, a.grantee
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'outbound_emails'::regclass AND a.grantee <> c.relowner
          AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        UNION ALL
        SELECT a.privilege_type, format('(%I)', v.attname), a.grantee
        FROM pg_depend AS d
        JOIN pg_rewrite AS r ON r.oid = d.objid AND r.ev_class = 'mail_outbox'::regclass
        JOIN pg_attribute AS b ON b.attrelid = d.refobjid AND b.attnum = d.refobjsubid
        JOIN pg_attribute AS v
            ON v.attrelid = 'mail_outbox'::regclass
              AND b.attname IN (v.attname, 'mail_' || v.attname)
        CROSS JOIN aclexplode(b.attacl) AS a
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'outbound_emails'::regclass
    LOOP
        EXECUTE format('GRANT %s %s ON mail_outbox TO %s', given.privilege, given.columns,
                       CASE WHEN given.grantee = 0 THEN 'PUBLIC'
                           ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$rights$"""
NAIVE = 'timestamp without time zone'


@dataclass(frozen=True, slots=True)
class Form:
    """What an adopted table is like."""

    columns: Mapping[str, Column]  # with those that expanding added
    added: Collection[str]  # their names
    words: Words
    zone: str  # what the application's times without a zone mean
    max_attempts: int  # of rows that do not say
    remedy: Remedy = NO_REMEDY  # for triggers of the application that look at status

    @property
    def names(self) -> dict[str, str]:
        """Which column of the table each column of the view is."""
        return view_columns(self.added)


def view_ddl(names: Mapping[str, str]) -> str:
    """Return the DDL of the view `mail_outbox`."""
    columns = ', '.join(f'{quoted(names[w.name])} AS {w.name}' for w in WANTED)
    return f"""
DROP VIEW IF EXISTS mail_outbox;
CREATE VIEW mail_outbox AS SELECT {columns} FROM outbound_emails;
{VIEW_RIGHTS_DDL}"""


def trigger_ddl() -> str:
    """Return the DDL of the trigger; a lease that is only renewed does not fire it."""
    return (
        f'CREATE OR REPLACE TRIGGER {SYNC} '
        'BEFORE INSERT OR UPDATE OF status, mail_status, next_retry_at '
        'ON outbound_emails FOR EACH ROW EXECUTE FUNCTION outbox_sync()'
    )


def state_ddl(words: Words) -> str:
    """Return the DDL of outbox_state: what the application's words mean."""
    return (
        'CREATE OR REPLACE FUNCTION outbox_state(word text) RETURNS text LANGUAGE sql IMMUTABLE '
        f'RETURN {case("lower(word)", words.read, "NULL")}'
    )


def sync_ddl(form: Form, *, shared: bool) -> str:
    """Return the DDL of the trigger's function.

    What changed tells who wrote: this program writes mail_status, by way of the view; who writes
    only status does not know of it, and means what the word means.

    Args:
        shared: The other system still runs. Its rows, and those that it inserts, stay `external`; a
            row of ours shows it a word that it does not pick up.
    """
    words, names = form.words, form.names
    return f"""
CREATE OR REPLACE FUNCTION outbox_sync() RETURNS trigger LANGUAGE plpgsql AS $sync$
DECLARE
    state text;
    by_others boolean := false;
BEGIN
{_second_update(form)}{_who_wrote(words)}    IF by_others THEN
{_written_by_others(form, shared=shared)}
    END IF;
{_zones(form)}{_given_back(words, shared=shared)}    IF NEW.mail_status = 'external' THEN
        RETURN NEW;
    END IF;
    NEW.{quoted(names['attempts'])} := COALESCE(NEW.{quoted(names['attempts'])}, 0);
    NEW.{quoted(names['max_attempts'])} := COALESCE(NEW.{quoted(names['max_attempts'])},
        {form.max_attempts});
    IF TG_OP = 'INSERT' THEN
        NEW.created_at := COALESCE(NEW.created_at, now());
    END IF;
{_mirrors(form)}{_show(form, shared=shared)}
    RETURN NEW;
END
$sync$"""


def _second_update(form: Form) -> str:
    """Return what lets our second UPDATE pass, see db.adoption.showing."""
    if not form.remedy.afterwards:
        return ''
    return f"""    IF TG_OP = 'UPDATE' AND {IS_SHOWING} THEN
        RETURN NEW;
    END IF;
"""


def _who_wrote(words: Words) -> str:
    """Return what tells the application's writing from ours, and reads its word."""
    read = case('lower(NEW.status::text)', words.read, 'NULL')
    return f"""    IF TG_OP = 'INSERT' THEN
        by_others := NEW.mail_status IS NULL;
        state := {read};
    ELSIF NEW.mail_status IS NOT DISTINCT FROM OLD.mail_status THEN
        state := {read};
        -- SET status = 'pending', next_retry_at = now() means it also where `pending` is shown
        -- already.
        -- A session that fires no triggers (replication, loaders) left it empty: any later UPDATE
        -- reads it.
        by_others := OLD.mail_status IS NULL OR NEW.status IS DISTINCT FROM OLD.status
            OR (state = 'pending' AND OLD.mail_status NOT IN ('pending', 'external')
                AND NEW.next_retry_at IS DISTINCT FROM OLD.next_retry_at);
    END IF;
"""


def _written_by_others(form: Form, *, shared: bool) -> str:
    names = form.names
    theirs = ''
    if shared:
        theirs = """IF TG_OP = 'INSERT' OR COALESCE(OLD.mail_status, 'external') = 'external' THEN
            state := 'external';
        END IF;"""
    return f"""        IF NEW.status IS NULL THEN
            NEW.status := {literal(form.words.shown['pending'])};
            state := 'pending';
        END IF;
        {theirs}
        -- An ORM that saves whole rows writes an old `sending` over what has ended since: nobody is
        -- sending it.
        IF TG_OP = 'UPDATE' AND state = 'sending'
                AND (OLD.mail_status IN ({sql_list((*OVER, Status.HELD))})
                OR (OLD.mail_status IN ({sql_list(TRIED)}) AND OLD.next_retry_at IS NULL)) THEN
            state := OLD.mail_status;
            NEW.status := OLD.status;
            NEW.next_retry_at := OLD.next_retry_at;
        END IF;
        NEW.mail_status := COALESCE(state, 'external');
        -- Another program says that it sends: after an hour without a word its e-mail counts as one
        -- of a lost worker.
        IF NEW.mail_status = 'sending'
           AND (TG_OP = 'INSERT' OR OLD.mail_status IS DISTINCT FROM 'sending') THEN
            NEW.{names['claim_token']} := gen_random_uuid();
            NEW.{names['claimed_by']} := 'another program';
            NEW.{names['claimed_at']} := now();
            NEW.{names['lease_expires_at']} := now() + interval '1 hour';
        END IF;"""


def _given_back(words: Words, *, shared: bool) -> str:
    """Return what leaves our e-mails to the other system where no word hides them from it.

    That is so while the table is shared: it sends what is queued here as well.
    """
    if not shared or words.hidden is not None:
        return ''
    return f"""    IF NEW.mail_status NOT IN ({sql_list((Status.EXTERNAL, *ACCEPTED))}) THEN
        NEW.mail_status := 'external';
        NEW.status := {literal(words.shown['pending'])};
    END IF;
"""


def _zones(form: Form) -> str:
    """Turn what queue_email wrote in a session of any zone into what the table's times mean."""
    zone = literal(form.zone)
    lines = [
        f"NEW.{c} := NEW.{c} AT TIME ZONE current_setting('TimeZone') AT TIME ZONE {zone};"
        for c in ('next_retry_at', 'expires_at')
        if form.columns[c].type == NAIVE
    ]
    # Whatever the application has as their defaults.
    lines += [
        f'NEW.{c} := CASE WHEN NEW.{c} IS NOT NULL THEN now() AT TIME ZONE {zone} END;'
        for c in ('created_at', 'updated_at')
        if form.columns[c].type == NAIVE
    ]
    if not lines:
        return ''
    body = '\n'.join(f'        {line}' for line in lines)
    return f"""    IF TG_OP = 'INSERT' AND NOT by_others
       AND current_setting('TimeZone') <> {zone} THEN
{body}
    END IF;
"""


def _mirrors(form: Form) -> str:
    """Return what copies our columns into the application's, as far as the values go in."""
    lines = []
    for name in ('smtp_response', 'smtp_code'):
        theirs = form.columns.get(name)
        if form.names[name] == name or theirs is None:
            continue
        value = f'NEW.mail_{name}::text'
        if theirs.limit is not None:
            value = f'left({value}, {theirs.limit})'
        if theirs.is_text or name == 'smtp_code':
            lines.append(f'        NEW.{name} := COALESCE({value}, NEW.{name}::text);')
    if not lines:
        return ''
    body = '\n'.join(lines)
    return f"""    IF NOT by_others THEN
{body}
    END IF;
"""


def _show(form: Form, *, shared: bool) -> str:
    """Return what sets `status`; what the second UPDATE is to set, this leaves as it is."""
    words, afterwards = form.words, form.remedy.afterwards
    if shared and words.hidden is not None:
        when = "by_others OR TG_OP = 'INSERT'" if afterwards else 'true'
    else:
        ours = "(NOT by_others AND TG_OP = 'INSERT')" if afterwards else 'NOT by_others'
        when = f'{ours} OR NEW.status IS NULL'
    return f"""    IF {when} THEN
        NEW.status := {shown_word(words, 'NEW', shared=shared)};
    END IF;"""


async def install_sync(conn: asyncpg.Connection, form: Form, *, shared: bool) -> None:
    """Make the functions of the triggers, and those triggers that the application's ones take.

    It wants a transaction, and a moment's lock where there are such triggers.

    Args:
        shared: See sync_ddl.
    """
    await conn.execute(sync_ddl(form, shared=shared))
    await install_showing(conn, form.words, form.remedy, shared=shared)
