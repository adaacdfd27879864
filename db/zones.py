"""Whether everybody agrees on what times without a zone mean in an application's outbound_emails.

Such a column is read here in DB_NAIVE_TIMEZONE. A program, or a default of now() in a session with
another TimeZone, that writes it on other clocks makes mail late by hours, or over before it was
made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from db.references import AnyConnection
from db.zone_facts import Writer, ZoneFacts, read_zone_facts

PAST = ('created_at', 'updated_at', 'last_attempt_at', 'sent_at')  # never in the future
FRESH = timedelta(days=2)
SLACK = timedelta(minutes=5)
QUARTER = timedelta(minutes=15)  # offsets of zones are multiples of it
FARTHEST = timedelta(hours=26)  # from one end of the world to the other
FEW = 3
# Where people live, to give an offset a name.
COMMON = (
    'UTC', 'Europe/London', 'Europe/Berlin', 'Europe/Athens', 'Europe/Moscow', 'Asia/Dubai',
    'Asia/Karachi', 'Asia/Kolkata', 'Asia/Kathmandu', 'Asia/Dhaka', 'Asia/Bangkok',
    'Asia/Shanghai', 'Asia/Tokyo', 'Australia/Adelaide', 'Australia/Sydney', 'Pacific/Auckland',
    'Atlantic/Azores', 'America/Sao_Paulo', 'America/New_York', 'America/Chicago',
    'America/Denver', 'America/Los_Angeles', 'America/Anchorage', 'Pacific/Honolulu',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ZoneFinding:
    """What does not fit, and what to do. error: mail is late or lost by it."""

    severity: Literal['error', 'warning']
    what: str
    remedy: str


async def compare_zones(conn: AnyConnection, naive_timezone: str) -> list[ZoneFinding]:
    """Compare what sessions, columns and DB_NAIVE_TIMEZONE say.

    There is nothing to say where every column has its zone.

    Args:
        conn: Best one that asked for no TimeZone: only then is the server's own known.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure;
        asyncpg.UndefinedTableError: no such table.
    """
    facts = await read_zone_facts(conn, naive_timezone)
    return [] if facts is None else list(judge_zones(facts))


def judge_zones(facts: ZoneFacts) -> Iterator[ZoneFinding]:
    """Judge the rows, which are proof, then the sessions, which are danger."""
    fresh = [row for row in facts.rows if (row.get('created_at') or facts.now) > facts.now - FRESH]
    ahead = _ahead(facts, fresh)
    yield from _reported_ahead(facts, ahead)
    yield from _over_before_made(facts, fresh)
    if not ahead:
        yield from _late(facts, fresh)
        yield from _behind(facts, fresh)
    yield from _sessions(facts)


def _ahead(facts: ZoneFacts, rows: Sequence[Mapping[str, Any]]) -> dict[str, timedelta]:
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


def _reported_ahead(facts: ZoneFacts, ahead: Mapping[str, timedelta]) -> Iterator[ZoneFinding]:
    # A row is a while old: the offset is the next quarter of an hour above.
    offsets = {-(-gap // QUARTER) * QUARTER for gap in ahead.values()}
    if not ahead:
        return
    names = ', '.join(sorted(ahead))
    what = (
        f'{names} of new e-mails lie {_hours(max(ahead.values()))} in the future when they are '
        f'read as {facts.zone}'
    )
    if len(offsets) == 1:
        zone = _zone_of(facts, next(iter(offsets)))
        yield ZoneFinding('error', f'{what}: they look like {zone}', _remedy(facts, zone))
    else:
        yield ZoneFinding('error', f'{what}, and not all by the same', _one_clock(facts))


def _over_before_made(facts: ZoneFacts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
    if not {'expires_at', 'created_at'} & set(facts.naive):
        return
    over = [
        row['id'] for row in rows
        if row.get('expires_at') is not None and row.get('created_at') is not None
        and row['expires_at'] < row['created_at']
    ]  # fmt: skip
    if over:
        emails = 'e-mail is' if len(over) == 1 else 'e-mails are'
        what = (
            f'{len(over)} {emails} over (expires_at) before created_at, and so never sent, the '
            f'last is {over[0]}'
        )
        yield ZoneFinding('error', what, _one_clock(facts))


def _late(facts: ZoneFacts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
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
            what = (
                f'{late} {emails} {_hours(gap)}, which is what {writer.zone} differs from '
                f'{facts.zone}'
            )
            yield ZoneFinding('error', what, _one_clock(facts))


def _behind(facts: ZoneFacts, rows: Sequence[Mapping[str, Any]]) -> Iterator[ZoneFinding]:
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
        what = (
            f'every e-mail seems {_hours(min(waits))} old when it is first claimed: created_at '
            f'looks like {zone}'
        )
        yield ZoneFinding('error', what, _remedy(facts, zone))
        return
    quiet = facts.now - max(made)
    for writer in facts.writers:
        if timedelta() <= quiet + writer.ahead < QUARTER and writer.ahead <= -2 * QUARTER:
            what = f'created_at of the newest e-mail is {_hours(quiet)} ago'
            what += f': nobody made one since, or it is {writer.zone}'
            yield ZoneFinding('warning', what, _remedy(facts, writer.zone))
            return


def _sessions(facts: ZoneFacts) -> Iterator[ZoneFinding]:
    others: dict[str, list[str]] = {}
    for writer in facts.writers:
        if writer.ahead or writer.ahead_later:
            others.setdefault(writer.zone, []).append(writer.role)
    for zone, roles in others.items():
        named = ', '.join(roles[:FEW]) + (
            f' and {len(roles) - FEW} more' if len(roles) > FEW else ''
        )
        what = (
            f'sessions of {named} have the TimeZone {zone}: '
            f'what now() writes there is read here as {facts.zone}'
        )
        yield ZoneFinding('warning', what, _remedy(facts, zone))


def _gaps(facts: ZoneFacts) -> dict[timedelta, Writer]:
    """Return by how much the clocks of sessions may make mail late, each with a role."""
    return {
        abs(writer.ahead): writer for writer in facts.writers if abs(writer.ahead) >= 2 * QUARTER
    }


def _zone_of(facts: ZoneFacts, ahead: timedelta) -> str:
    """Name a zone that is so far ahead of DB_NAIVE_TIMEZONE now.

    It is one that a session has, or a large one.
    """
    for writer in facts.writers:
        if writer.ahead == ahead:
            return writer.zone
    offset = (facts.now.astimezone(ZoneInfo(facts.zone)).utcoffset() or timedelta()) + ahead
    for name in COMMON:
        if facts.now.astimezone(ZoneInfo(name)).utcoffset() == offset:
            return name
    hours = offset / timedelta(hours=1)
    return f'UTC{hours:+g}'


def _remedy(facts: ZoneFacts, zone: str) -> str:
    setting = (
        f'set DB_NAIVE_TIMEZONE={zone} for every worker' if '/' in zone or zone == 'UTC' else _FIND
    )
    return f'if every program writes that, {setting}; else {_one_clock(facts)}'


_FIND = 'find its name and set DB_NAIVE_TIMEZONE'


def _one_clock(facts: ZoneFacts) -> str:
    roles = [writer.role for writer in facts.writers if writer.ahead or writer.ahead_later]
    role = '"' + roles[0].replace('"', '""') + '"' if roles else "<the application's role>"
    alter = f"ALTER ROLE {role} SET timezone = '{facts.zone}'"
    return f'have all of them write {facts.zone}: {alter}, and see its datetimes'


def _hours(gap: timedelta) -> str:
    return f'{gap / timedelta(hours=1):.1f} h'
