"""Locales, as language tags such as de-AT (BCP 47), and which texts stand in for which."""

import re
from typing import Any

from mail_outbox.envelope import InvalidEmailError

DEFAULT = 'default'  # a text for every locale that has none of its own
MAX_LOCALE_CHARS = 35  # RFC 5646, 4.4.1
LOCALE = r'^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$'  # as it may be given
TAG = re.compile('[a-z]{2,8}(-[a-z0-9]{1,8})*')


def checked_locale(name: str, value: Any) -> str:
    """Return a language tag as it is stored: de-AT for de_AT.

    Raises:
        InvalidEmailError: it is none.
    """
    if not isinstance(value, str):
        raise InvalidEmailError(f'{name}: must be text, not {type(value).__name__}')
    tag = value.replace('_', '-')
    if len(tag) > MAX_LOCALE_CHARS or not TAG.fullmatch(tag.lower()):
        raise InvalidEmailError(f'{name}: {value[:40]!r} is no language tag such as de or de-AT')
    return tag


def locale_chain(tag: str | None) -> list[str]:
    """Return the locales that serve for one, the best first: de-at, de, default.

    A tag that is none, as a row of another program may have it (C, de_DE.UTF-8@euro), is read as
    far as it is one.

    Source: RFC 4647 section 3.4 (lookup).
    """
    found = TAG.match((tag or '')[:MAX_LOCALE_CHARS].replace('_', '-').lower())
    parts = found[0].split('-') if found else []
    chain = []
    while parts:
        if len(parts[-1]) > 1:  # a single letter only introduces what follows
            chain.append('-'.join(parts))
        parts.pop()
    return [*chain, DEFAULT]
