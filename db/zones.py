"""What times without a zone mean in an application's outbound_emails, and whether everybody agrees on it.

Such a column is read here in DB_NAIVE_TIMEZONE. A program, or a default of now() in a session with
another TimeZone, that writes it on other clocks makes mail late by hours, or over before it was
made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import asyncpg

from db.references import Connection

TIMES = (
    'created_at',
    'updated_at',
    'last_attempt_at',
    'sent_at',
    'next_retry_at',
    'expires_at',
    'claimed_at',
)
PAST = ('created_at', 'updated_at', 'last_attempt_at', 'sent_at')  # never in the future
SAMPLE = 1000
FRESH = timedelta(days=2)
SLACK = timedelta(minutes=5)
QUARTER = timedelta(minutes=15)  # offsets of zones are multiples of it
FARTHEST = timedelta(hours=26)  # from one end of the world to the other
FEW = 3
# Where people live, to give an offset a name.
COMMON = (
    'UTC', 'Europe/London', 'Europe/Berlin', 'Europe/Athens', 'Europe/Moscow', 'Asia/Dubai', 'Asia/Karachi',
    'Asia/Kolkata', 'Asia/Kathmandu', 'Asia/Dhaka', 'Asia/Bangkok', 'Asia/Shanghai', 'Asia/Tokyo', 'Australia/Adelaide',
    'Australia/Sydney', 'Pacific/Auckland', 'Atlantic/Azores', 'America/Sao_Paulo', 'America/New_York',
    'America/Chicago', 'America/Denver', 'America/Los_Angeles', 'America/Anchorage', 'Pacific/Honolulu',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ZoneFinding:
    """What does not fit, and what to do. error: mail is late or lost by it."""

    severity: Literal['error', 'warning']
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Writer:
    """A role whose sessions may insert e-mails, with their TimeZone and how far it is ahead of DB_NAIVE_TIMEZONE."""

    role: str
    zone: str
    ahead: timedelta
    ahead_later: timedelta  # half a year from now


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known. rows are the newest, the times in them aware: those without a zone as DB_NAIVE_TIMEZONE has it."""

    zone: str  # DB_NAIVE_TIMEZONE
    now: datetime
    naive: Sequence[str]  # columns
    writers: Sequence[Writer]
    rows: Sequence[Mapping[str, Any]]


async def compare_zones(conn: Connection, naive_timezone: str) -> list[ZoneFinding]:
    """Compare what sessions, columns and DB_NAIVE_TIMEZONE say. Nothing to say where every column has its zone.

    Args:
        conn: Best one that asked for no TimeZone: only then is the server's own known.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure;
        asyncpg.UndefinedTableError: no such table.
    """
    columns = {
        row['name']: row['is_naive'] for row in await conn.fetch(TIME_COLUMNS_SQL, list(TIMES))
    }
    naive = [name for name in TIMES if columns.get(name)]
    if not naive:
        return []
    writers = [
        Writer(*row)
        for row in await conn.fetch(WRITERS_SQL, naive_timezone, await _server_zone(conn))
    ]
    # Zones that no calendar knows, and times that no datetime holds, are left out.
    chosen = ', '.join(
        f"CASE WHEN {name} BETWEEN '1990-01-01' AND '2900-01-01' THEN {name}{' AT TIME ZONE $1' * columns[name]} END "
        f'AS {name}'
        for name in columns
    )
    newest = f"""
        SELECT id, $1::text AS zone, {chosen} FROM outbound_emails ORDER BY id DESC LIMIT {SAMPLE}
    """
    rows = [dict(row) for row in await conn.fetch(newest, naive_timezone)]
    now: datetime = await conn.fetchval('SELECT now()')
    return list(judge(Facts(naive_timezone, now, naive, writers, rows)))


TIME_COLUMNS_SQL = """
SELECT a.attname AS name, COALESCE(NULLIF(t.typbasetype, 0), t.oid) = 'timestamp'::regtype AS is_naive
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = 'outbound_emails'::regclass AND a.attname = ANY($1::text[])
  AND COALESCE(NULLIF(t.typbasetype, 0), t.oid) IN ('timestamp'::regtype, 'timestamptz'::regtype)
"""

# What a session gets that asks for nothing: by role and database, by role, by database, or as the
# server has it.
WRITERS_SQL = """
WITH configured AS (
    SELECT setdatabase, setrole, substr(option, strpos(option, '=') + 1) AS zone
    FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS o (option)
    WHERE lower(split_part(option, '=', 1)) = 'timezone'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
), writers AS (
    SELECT r.rolname::text AS role, COALESCE((
        SELECT zone FROM configured WHERE setrole IN (0, r.oid)
        ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1
    ), $2::text) AS zone
    FROM pg_class AS t CROSS JOIN pg_roles AS r
    WHERE t.oid = 'outbound_emails'::regclass AND r.rolcanlogin AND (
        r.oid = t.relowner OR EXISTS (SELECT FROM configured WHERE setrole = r.oid)
        OR NOT r.rolsuper) AND has_any_column_privilege(r.oid, t.oid, 'INSERT')
)
SELECT role, zone, (now() AT TIME ZONE zone) - (now() AT TIME ZONE $1) AS ahead,
    ((now() + interval '182 days') AT TIME ZONE zone) - ((now() + interval '182 days') AT TIME ZONE $1) AS ahead_later
FROM writers WHERE zone IS NOT NULL ORDER BY role
"""

SERVER_ZONE_SQL = """
SELECT setting AS zone, source NOT IN ('client', 'session', 'database', 'user', 'database user') AS is_the_servers
FROM pg_settings WHERE name = 'TimeZone'
"""
FILE_ZONE_SQL = "SELECT setting FROM pg_file_settings WHERE lower(name) = 'timezone' ORDER BY seqno DESC LIMIT 1"


async def _server_zone(conn: Connection) -> str | None:
    """Return the TimeZone of the server's configuration; None when this session, or its role, may not see it."""
    [row] = await conn.fetch(SERVER_ZONE_SQL)
    if row['is_the_servers']:
        return str(row['zone'])
    try:
        async with conn.transaction():
            found: str | None = await conn.fetchval(FILE_ZONE_SQL)
            return found
    except asyncpg.InsufficientPrivilegeError:
        return None


def judge(facts: Facts) -> Iterator[ZoneFinding]:
    """Judge the rows, which are proof, then the sessions, which are danger."""
    fresh = [row for row in facts.rows if (row.get('created_at') or facts.now) > facts.now - FRESH]
    ahead = _ahead(facts, fresh)
    yield from _told_ahead(facts, ahead)
    yield from _over_before_made(facts, fresh)
    if not ahead:
        yield from _late(facts, fresh)
        yield from _behind(facts, fresh)
    yield from _sessions(facts)


def _ahead(facts: Facts, rows: Sequence[Mapping[str, Any]]) -> dict[str, timedelta]:
    """Return how far columns lie in the future, or after the claim that came later."""
    found: dict[str, timedelta] = {}
    for name in set(PAST) & set(facts.naive):
        seen = [(row[name], row.get('claimed_at')) for row in rows if row[name] is not None]
        gaps = [at - facts.now for at, _ in seen]
        if name == 'created_at':
            gaps += [at - claimed_at for at, claimed_at in seen if claimed_at is not None]
        if gaps and SLACK < max(gaps) <= FARTHEST:
            found[name] = max(gaps)
    return found


def _told_ahead(facts: Facts, ahead: Mapping[str, timedelta]) -> Iterator[ZoneFinding]:
    # A row is a while old: the offset is the next quarter of an hour above.
    offsets = {-(-gap // QUARTER) * QUARTER for gap in ahead.values()}
    if not ahead:
        return
    names = ', '.join(sorted(ahead))
    what = f'{names} of new e-mails lie {_hours(max(ahead.values()))} in the future when they are read as {facts.zone}'
    if len(offsets) == 1:
        zone = _zone_of(facts, next(iter(offsets)))
        yield ZoneFinding('error', f'{what}: they look like {zone}', _remedy(facts, zone))
    else:
        yield ZoneFinding('error', f'{what}, and not all by the same', _one_clock(facts))


def _over_before_made(facts: Facts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
    if not {'expires_at', 'created_at'} & set(facts.naive):
        return
    over = [
        row['id'] for row in rows
        if row.get('expires_at') is not None and row.get('created_at') is not None
        and row['expires_at'] < row['created_at']
    ]  # fmt: skip
    if over:
        emails = 'e-mail is' if len(over) == 1 else 'e-mails are'
        what = f'{len(over)} {emails} over (expires_at) before created_at, and so never sent, the last is {over[0]}'
        yield ZoneFinding('error', what, _one_clock(facts))


def _late(facts: Facts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
    """Look for mail that is due later by just what the clocks of a session differ."""
    if not {'next_retry_at', 'created_at'} & set(facts.naive):
        return
    waits = [
        row['next_retry_at'] - row['created_at'] for row in rows
        if row.get('next_retry_at') is not None and row.get('created_at') is not None
        and row['next_retry_at'] > facts.now and row.get('last_attempt_at') is None
    ]  # fmt: skip
    for gap, writer in _gaps(facts).items():
        late = sum(abs(wait - gap) < timedelta(seconds=5) for wait in waits)
        if late:
            emails = 'new e-mail waits' if late == 1 else 'new e-mails wait'
            what = f'{late} {emails} {_hours(gap)}, which is what {writer.zone} differs from {facts.zone}'
            yield ZoneFinding('error', what, _one_clock(facts))


def _behind(facts: Facts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
    """Look for new e-mails that seem to be hours old."""
    made = [row['created_at'] for row in facts.rows if row.get('created_at') is not None]
    if 'created_at' not in facts.naive or not made:
        return
    waits = [
        row['claimed_at'] - row['created_at'] for row in rows
        if row.get('claimed_at') is not None and row.get('created_at') is not None
    ]  # fmt: skip
    if (
        len(waits) >= FEW
        and min(waits) > 2 * QUARTER - SLACK
        and (min(waits) + SLACK) % QUARTER < 2 * SLACK
    ):
        zone = _zone_of(facts, -round(min(waits) / QUARTER) * QUARTER)
        what = f'every e-mail seems {_hours(min(waits))} old when it is first claimed: created_at looks like {zone}'
        yield ZoneFinding('error', what, _remedy(facts, zone))
        return
    quiet = facts.now - max(made)
    for writer in facts.writers:
        if timedelta() <= quiet + writer.ahead < QUARTER and writer.ahead <= -2 * QUARTER:
            what = f'created_at of the newest e-mail is {_hours(quiet)} ago'
            what += f': nobody made one since, or it is {writer.zone}'
            yield ZoneFinding('warning', what, _remedy(facts, writer.zone))
            return


def _sessions(facts: Facts) -> Iterator[ZoneFinding]:
    others: dict[str, list[str]] = {}
    for writer in facts.writers:
        if writer.ahead or writer.ahead_later:
            others.setdefault(writer.zone, []).append(writer.role)
    for zone, roles in others.items():
        told = ', '.join(roles[:FEW]) + (
            f' and {len(roles) - FEW} more' if len(roles) > FEW else ''
        )
        what = f'sessions of {told} have the TimeZone {zone}: what now() writes there is read here as {facts.zone}'
        yield ZoneFinding('warning', what, _remedy(facts, zone))


def _gaps(facts: Facts) -> dict[timedelta, Writer]:
    """Return by how much the clocks of sessions may make mail late, each with a role."""
    return {
        abs(writer.ahead): writer for writer in facts.writers if abs(writer.ahead) >= 2 * QUARTER
    }


def _zone_of(facts: Facts, ahead: timedelta) -> str:
    """Name a zone that is so far ahead of DB_NAIVE_TIMEZONE now: one that a session has, or a large one."""
    for writer in facts.writers:
        if writer.ahead == ahead:
            return writer.zone
    offset = (facts.now.astimezone(ZoneInfo(facts.zone)).utcoffset() or timedelta()) + ahead
    for name in COMMON:
        if facts.now.astimezone(ZoneInfo(name)).utcoffset() == offset:
            return name
    hours = offset / timedelta(hours=1)
    return f'UTC{hours:+g}'


def _remedy(facts: Facts, zone: str) -> str:
    setting = (
        f'set DB_NAIVE_TIMEZONE={zone} for every worker' if '/' in zone or zone == 'UTC' else _FIND
    )
    return f'if every program writes that, {setting}; else {_one_clock(facts)}'


_FIND = 'find its name and set DB_NAIVE_TIMEZONE'


def _one_clock(facts: Facts) -> str:
    roles = [writer.role for writer in facts.writers if writer.ahead or writer.ahead_later]
    role = '"' + roles[0].replace('"', '""') + '"' if roles else "<the application's role>"
    alter = f"ALTER ROLE {role} SET timezone = '{facts.zone}'"
    return f'have all of them write {facts.zone}: {alter}, and see its datetimes'


def _hours(gap: timedelta) -> str:
    return f'{gap / timedelta(hours=1):.1f} h'
