"""Filters for dates, numbers and plurals, by Babel: as the e-mail's locale writes them."""

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from mail_outbox.locales import locale_chain

if TYPE_CHECKING:
    from babel import Locale

MOST_DIGITS = 40  # before and after the point; 1e999999 would be written out
LOCALE = 'en'  # without another one
ZONE = 'UTC'


class Formats:
    """The filters of one template.

    Attributes:
        locale: A language tag, of the e-mail that is being made.
        zone: An IANA time zone; times without one are in UTC.
    """

    def __init__(self, zone: str = ZONE) -> None:
        self.locale: str = LOCALE
        self.zone = zone

    def filters(self) -> Mapping[str, Callable[..., Any]]:
        """Return them by the names that templates know."""
        return {
            'date': self.date, 'time': self.time, 'datetime': self.datetime,
            'number': self.number, 'percent': self.percent, 'currency': self.currency,
            'plural': self.plural, 'ngettext': self.ngettext,
        }  # fmt: skip

    def date(self, value: Any, form: str = 'medium', zone: str | None = None) -> str:
        """Write a day: short, medium, long, full, or a pattern of CLDR."""
        from babel.dates import format_date  # noqa: PLC0415 - so for all here: few templates need it

        day = _day(value)
        at = self._at(value, zone) if day is None else day
        return format_date(at, form, locale=known_locale(self.locale))

    def time(self, value: Any, form: str = 'short', zone: str | None = None) -> str:
        """Write a time of day."""
        from babel.dates import format_time  # noqa: PLC0415

        at = self._at(value, zone)
        return format_time(at, form, tzinfo=at.tzinfo, locale=known_locale(self.locale))

    def datetime(self, value: Any, form: str = 'medium', zone: str | None = None) -> str:
        """Write a day and a time of day."""
        from babel.dates import format_datetime  # noqa: PLC0415

        at = self._at(value, zone)
        return format_datetime(at, form, tzinfo=at.tzinfo, locale=known_locale(self.locale))

    def number(self, value: Any, form: str | None = None) -> str:
        """Write a number; form is a pattern of CLDR, such as #,##0.00."""
        from babel.numbers import format_decimal  # noqa: PLC0415

        return format_decimal(_decimal(value), form, locale=known_locale(self.locale))

    def percent(self, value: Any, form: str | None = None) -> str:
        """Write a share: 0.25 is 25 %."""
        from babel.numbers import format_percent  # noqa: PLC0415

        return format_percent(_decimal(value), form, locale=known_locale(self.locale))

    def currency(self, value: Any, code: str, form: str | None = None) -> str:
        """Write an amount of money; code is ISO 4217's, such as EUR."""
        from babel.numbers import format_currency  # noqa: PLC0415

        return format_currency(_decimal(value), code, form, locale=known_locale(self.locale))

    def plural(self, value: Any, **forms: str) -> str:
        """Return the form that the language has for a number, with the number for #.

        Args:
            forms: By the words of CLDR: zero, one, two, few, many, other; other must be there.
        """
        if 'other' not in forms:
            raise ValueError('plural: give at least other=')
        number = _decimal(value)
        form = known_locale(self.locale).plural_form(number)
        return forms.get(form, forms['other']).replace('#', self.number(number))

    def ngettext(self, value: Any, singular: str, plural: str) -> str:
        """Do what plural does, for languages with two forms."""
        return self.plural(value, one=singular, other=plural)

    def _at(self, value: Any, zone: str | None) -> dt.datetime:
        at = _moment(value)
        return at.astimezone(ZoneInfo(zone or self.zone))


@lru_cache(maxsize=256)
def known_locale(tag: str) -> 'Locale':
    """Return the locale that Babel knows and that is nearest to this one; else English."""
    from babel import Locale, UnknownLocaleError  # noqa: PLC0415

    for wanted in locale_chain(tag)[:-1]:
        try:
            return Locale.parse(wanted, sep='-')
        except (UnknownLocaleError, ValueError):
            continue
    return Locale(LOCALE)


def _day(value: Any) -> dt.date | None:
    """Return a day that is given without a time, as 2026-08-01."""
    if not isinstance(value, str):
        return None
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        return None


def _moment(value: Any) -> dt.datetime:
    """Read ISO 8601, or seconds since 1970."""
    if isinstance(value, str):
        try:
            at = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f'{value[:40]!r} is no time such as 2026-08-01T14:30:00Z') from None
        return at if at.tzinfo else at.replace(tzinfo=dt.UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dt.datetime.fromtimestamp(value, dt.UTC)
    raise TypeError(f'a {type(value).__name__} is no time')


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise TypeError(f'a {type(value).__name__} is no number')
    if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise ValueError(f'the number has more than {MOST_DIGITS} digits')
    try:
        number = Decimal(str(value)[:1000])
    except InvalidOperation:
        raise ValueError(f'{value[:40]!r} is no number') from None  # type: ignore[index]  # a text
    if not number.is_finite():
        raise ValueError(f'{number} cannot be written')
    if number and abs(number.adjusted()) > MOST_DIGITS:
        raise ValueError(f'the number has more than {MOST_DIGITS} digits')
    return number
