"""Times of PostgreSQL as Python has them.

Also those that no datetime can hold: infinity, the year 20260, 4000 BC.
"""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

import asyncpg

Row = dict[str, Any]  # what a report returns of a record

EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001 - PostgreSQL's, of times without a zone
EPOCH_UTC = EPOCH.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CYCLE = timedelta(days=146_097) // MICROSECOND  # 400 years, after which the calendar repeats itself
INFINITE = {2**63 - 1: 'infinity', -(2**63): '-infinity'}
# As with asyncpg's own encoders, the last and the first time stand for them.
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
ENDS = {LAST: 2**63 - 1, FIRST: -(2**63)}


class FarTime(datetime):
    """A time outside Python's years.

    It compares as the last or the first of them, and reads as what it is.

    Attributes:
        place: Microseconds since 2000, as PostgreSQL keeps it.
        text: As PostgreSQL writes it, in UTC.
    """

    place: int
    text: str

    @classmethod
    def at(cls, place: int) -> Self:
        """Return the time that is so many microseconds after 2000."""
        end = LAST if place > 0 else FIRST
        moment = cls(
            end.year, end.month, end.day, end.hour, end.minute, end.second, end.microsecond, UTC
        )
        moment.place = place
        moment.text = _text(place)
        return moment

    def astimezone(self, tz: Any = None) -> Self:  # noqa: ARG002 - a zone's offset would lead outside of the years
        """Return itself."""
        return self

    def isoformat(self, *_: Any, **__: Any) -> str:
        """Return the text, whatever form is asked for."""
        return self.text

    def strftime(self, _: str) -> str:
        """Return the text, whatever form is asked for."""
        return self.text

    def __str__(self) -> str:
        return self.text


def _text(place: int) -> str:
    if place in INFINITE:
        return INFINITE[place]
    cycles, rest = divmod(place, CYCLE)
    moment = EPOCH + rest * MICROSECOND
    year = moment.year + 400 * cycles
    shown, era = (year, '') if year > 0 else (1 - year, ' BC')  # there is no year 0
    return f'{shown:04d}-{moment:%m-%d %H:%M:%S}+00{era}'


def elapsed_s(since: str, until: str = 'now()') -> str:
    """Return SQL for the seconds between two times as float8.

    They are infinite where a time is: the difference of such times is an error.
    """
    return (
        f'(EXTRACT(EPOCH FROM {until}::timestamptz)::float8'
        f' - EXTRACT(EPOCH FROM {since}::timestamptz)::float8)'
    )


def as_row(record: asyncpg.Record) -> Row:
    """Return a record as a dict that can become JSON: seconds without end are None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def rows_of(records: Iterable[asyncpg.Record]) -> list[Row]:
    """Return records as such dicts."""
    return [as_row(record) for record in records]


def decode_zoned(value: tuple[int]) -> datetime:
    """Return a time with a zone, in UTC, from microseconds since 2000."""
    try:
        return EPOCH_UTC + timedelta(microseconds=value[0])
    except OverflowError:
        return FarTime.at(value[0])


def encode_zoned(moment: datetime) -> tuple[int]:
    """Return microseconds since 2000; a naive time is of this machine's zone."""
    if isinstance(moment, FarTime):
        return (moment.place,)
    if moment.tzinfo is None:
        moment = moment.astimezone(UTC)
    return (ENDS.get(moment) or (moment - EPOCH_UTC) // MICROSECOND,)


def naive_decoder(zone: ZoneInfo) -> Callable[[tuple[int]], datetime]:
    """Return what makes an aware time, in UTC, of microseconds since 2000 on the clocks of a zone.

    In the hour that clocks show twice it takes the second, in the one they skip it goes on with the
    offset before: as PostgreSQL does when it compares such a column with now().
    """

    def decode(value: tuple[int]) -> datetime:
        try:
            local = (EPOCH + value[0] * MICROSECOND).replace(tzinfo=zone)
            offset = min(
                local.utcoffset() or timedelta(), local.replace(fold=1).utcoffset() or timedelta()
            )
            return (local.replace(tzinfo=None) - offset).replace(tzinfo=UTC)
        except OverflowError:
            return FarTime.at(value[0])

    return decode


def naive_encoder(zone: ZoneInfo) -> Callable[[datetime], tuple[int]]:
    """Return a function from times to microseconds since 2000 on the clocks of a zone.

    A naive time is one of that zone.
    """

    def encode(moment: datetime) -> tuple[int]:
        if isinstance(moment, FarTime):
            return (moment.place,)
        if moment in ENDS:
            return (ENDS[moment],)
        if moment.tzinfo is not None:
            moment = moment.astimezone(zone).replace(tzinfo=None)
        return ((moment - EPOCH) // MICROSECOND,)

    return encode
