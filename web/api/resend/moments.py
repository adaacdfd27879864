"""`scheduled_at`: a moment in ISO 8601, or in the few English forms of MOMENTS."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LONGEST_CHARS = 64
FURTHEST = timedelta(days=365)
REMEDY = (
    "give ISO 8601 with a zone, such as 2026-12-24T09:00:00Z, or 'in 10 min', 'tomorrow at 9am'"
)

UNITS: Mapping[str, timedelta] = {
    's': timedelta(seconds=1), 'sec': timedelta(seconds=1), 'second': timedelta(seconds=1),
    'm': timedelta(minutes=1), 'min': timedelta(minutes=1), 'minute': timedelta(minutes=1),
    'h': timedelta(hours=1), 'hr': timedelta(hours=1), 'hour': timedelta(hours=1),
    'd': timedelta(days=1), 'day': timedelta(days=1), 'week': timedelta(weeks=1),
}  # fmt: skip
WEEKDAYS = ('monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday')
SHORT: Mapping[str, timedelta] = {'now': timedelta(0), 'tomorrow': timedelta(days=1)}
CLOCKS: Mapping[str, tuple[int, int]] = {'midnight': (0, 0), 'noon': (12, 0)}
# As people in the United States write them: summer time or not is the calendar's to know.
ZONES: Mapping[str, str] = {
    'et': 'America/New_York', 'est': 'America/New_York', 'edt': 'America/New_York',
    'ct': 'America/Chicago', 'cst': 'America/Chicago', 'cdt': 'America/Chicago',
    'mt': 'America/Denver', 'mst': 'America/Denver', 'mdt': 'America/Denver',
    'pt': 'America/Los_Angeles', 'pst': 'America/Los_Angeles', 'pdt': 'America/Los_Angeles',
    'utc': 'UTC', 'gmt': 'UTC', 'z': 'UTC',
}  # fmt: skip

CLOCK = (
    r'(?:(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?(?: ?(?P<half>am|pm))?|(?P<named>noon|midnight))'
)
ZONE = r'(?: (?P<zone>[a-z]{1,3}|[a-z_]{2,20}(?:/[a-z_-]{2,30}){1,2}))?'  # or as IANA names them
AFTER = re.compile(r'in (?P<count>\d{1,5}|an?) ?(?P<unit>[a-z]+)', re.IGNORECASE | re.ASCII)
ON_DAY = re.compile(
    rf'(?:(?P<day>today|tomorrow|(?:next |on )?(?:{"|".join(WEEKDAYS)}))(?: at)?|at) {CLOCK}{ZONE}',
    re.IGNORECASE | re.ASCII,
)


def scheduled_moment(text: str, now: datetime) -> datetime:
    """Return the moment that a text names, aware.

    Args:
        text: ISO 8601, in UTC where it names no zone; or English, in any case.
        now: Aware; what 'in 10 min' counts from.
    Raises:
        ValueError: says why it is none, or none that an e-mail can wait for.
    """
    if len(text) > LONGEST_CHARS:
        raise ValueError(f'{len(text)} characters are no moment')
    moment = _iso(text) or _english(' '.join(text.split()), now)
    if moment is None:
        raise ValueError(f'{text!r} is no moment that is understood')
    if moment - now > FURTHEST:
        raise ValueError(f'{text!r} is more than {FURTHEST.days} days away')
    return moment


def _iso(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.strip())
        # The last hours of year 9999 are none in another zone.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _english(text: str, now: datetime) -> datetime | None:
    if text.lower() in SHORT:
        return now + SHORT[text.lower()]
    if found := AFTER.fullmatch(text):
        unit = found['unit'].lower()
        length = UNITS.get(unit) or UNITS.get(unit.removesuffix('s'))
        count = int(found['count']) if found['count'].isdecimal() else 1
        return now + count * length if length else None
    if found := ON_DAY.fullmatch(text):
        return _on_day(found, now)
    return None


def _on_day(found: re.Match[str], now: datetime) -> datetime | None:
    zone, clock = _zone(found['zone'] or 'UTC'), _clock(found)
    if zone is None or clock is None:
        return None
    today = now.astimezone(zone).replace(hour=clock[0], minute=clock[1], second=0, microsecond=0)
    day = (found['day'] or '').lower()
    if day == 'today':
        return today
    if day == 'tomorrow':
        return today + timedelta(days=1)
    every = timedelta(days=7 if day else 1)
    ahead = (WEEKDAYS.index(day.rpartition(' ')[2]) - today.weekday()) % 7 if day else 0
    moment = today + timedelta(days=ahead)
    return moment if moment > now else moment + every


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(ZONES.get(name.lower(), name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _clock(found: re.Match[str]) -> tuple[int, int] | None:
    if found['named']:
        return CLOCKS[found['named'].lower()]
    hour, minute = int(found['hour']), int(found['minute'] or 0)
    if half := (found['half'] or '').lower():
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == 'pm' else 0)
    elif found['minute'] is None:
        return None  # 'tomorrow at 9': in the morning, or in the evening?
    return (hour, minute) if hour <= 23 and minute <= 59 else None
