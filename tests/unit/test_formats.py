"""Dates, numbers and plurals in templates."""

from typing import Any

import pytest

from mail.template.formats import Formats


def written(locale: str, name: str, value: Any, *arguments: Any, **named: Any) -> str:
    formats = Formats('Europe/Vienna')
    formats.locale = locale
    return formats.filters()[name](value, *arguments, **named).replace('\xa0', ' ')


@pytest.mark.parametrize(
    ('locale', 'name', 'value', 'arguments', 'text'),
    [
        ('de-at', 'date', '2026-08-01', (), '01.08.2026'),
        ('de', 'date', '2026-07-31T23:30:00Z', (), '01.08.2026'),
        ('en', 'date', '2026-08-01', ('long',), 'August 1, 2026'),
        ('en', 'date', 0, ('yyyy-MM-dd',), '1970-01-01'),
        ('de', 'time', '2026-08-01T12:00:00+00:00', (), '14:00'),
        ('de', 'datetime', '2026-08-01T12:00:00', ('short', 'Asia/Tokyo'), '01.08.26, 21:00'),
        ('fr', 'number', '1234.5', (), '1 234,5'),
        ('en', 'percent', 0.25, (), '25%'),
        ('ja', 'currency', 1200, ('JPY',), '￥1,200'),
        ('en', 'ngettext', 1, ('# day', '# days'), '1 day'),
        ('tlh', 'number', 1234.5, (), '1,234.5'),
        ('../../x', 'number', 1, (), '1'),
    ],
)
def test_value_is_written_as_the_locale_does(
    locale: str, name: str, value: Any, arguments: tuple[Any, ...], text: str
) -> None:
    assert written(locale, name, value, *arguments).replace('\u202f', ' ') == text


@pytest.mark.parametrize(
    ('locale', 'number', 'form'),
    [('pl', 1, 'one'), ('pl', 3, 'few'), ('pl', 5, 'many'), ('ar', 0, 'zero'), ('de', 2, 'other')],
)
def test_plural_is_the_languages(locale: str, number: int, form: str) -> None:
    forms = {word: word for word in ('zero', 'one', 'two', 'few', 'many', 'other')}
    assert written(locale, 'plural', number, **forms) == form


@pytest.mark.parametrize(
    ('name', 'value', 'arguments'),
    [
        ('date', 'yesterday', ()),
        ('date', None, ()),
        ('date', True, ()),
        ('date', 10**30, ()),
        ('datetime', '2026-08-01', ('short', '../../etc/passwd')),
        ('number', 'x', ()),
        ('number', '1e999999', ()),
        ('number', 10**100, ()),
        ('number', 'NaN', ()),
        ('number', True, ()),
        ('number', [1], ()),
        ('plural', 1, ()),
    ],
)
def test_what_is_no_date_or_number_is_an_error(
    name: str, value: Any, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError, LookupError)):
        written('en', name, value, *arguments)
