"""Reading a set of template files: which templates they are, and what each says by locale.

templates.toml          default_locale, time_zone, inline_css; may be left out
_shared/layout.html     folders with _ in front hold what templates extend and include
welcome/subject.txt     a folder is a template, and its name the template's
welcome/body.html       or body.mjml; and body.txt, else the text is made from the HTML
welcome/body.de.html    the same for a locale; what it lacks comes from the next: de-at, de, default
welcome/sample.json     what previews and the check are filled with
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from actions.safety import RequestError
from db.templates import NewVersion
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.locales import DEFAULT, checked_locale, locale_chain

MOST_FILES = 2000
MAX_FILE_BYTES = 256 * 1024
MAX_SET_BYTES = 8 * 1024 * 1024
LONGEST_PATH = 300
SETTINGS = 'templates.toml'
SAMPLE = 'sample.json'
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')
PART = re.compile(
    r'(?P<part>subject|body)(\.(?P<locale>[A-Za-z0-9_-]+))?\.(?P<ending>txt|html|mjml)'
)
QUOTED = re.compile(r'"([^"\n]{1,300})"|\'([^\'\n]{1,300})\'')
SEE = 'see docs/mail.md, Templates'
BODIES = ('txt', 'html', 'mjml')


@dataclass(frozen=True, slots=True)
class SetSettings:
    """What templates.toml says."""

    default_locale: str = 'en'
    time_zone: str = 'UTC'
    inline_css: bool = True


@dataclass(slots=True)
class FoundFiles:
    """The parts of one template: their paths by locale and by what they are."""

    subjects: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, dict[str, str]] = field(default_factory=dict)  # locale -> ending -> path


def read_set(files: Mapping[str, str]) -> list[NewVersion]:
    """Read a set.

    Args:
        files: Texts by their paths below the set's folder, with / between the parts.
    Raises:
        RequestError: names the file that is wrong.
    """
    _check_sizes(files)
    settings = _settings(files.get(SETTINGS))
    found: dict[str, FoundFiles] = {}
    for path in sorted(files):
        folder, _, name = path.partition('/')
        part = PART.fullmatch(name)
        if part is not None and not folder.startswith(('_', '.')):
            _note(found.setdefault(_name(folder, path), FoundFiles()), path, part)
    if not found:
        raise RequestError('there is no template: no folder with subject.txt or body.html', SEE)
    return [_version(name, parts, files, settings) for name, parts in found.items()]


def _check_sizes(files: Mapping[str, str]) -> None:
    if len(files) > MOST_FILES:
        raise RequestError(f'{len(files)} files, at most {MOST_FILES} are taken', 'push fewer')
    total_bytes = 0
    for path, text in files.items():
        if not path or len(path) > LONGEST_PATH or not path.isprintable():
            raise RequestError(f'{path[:80]!a} is no path of a file', SEE)
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            raise RequestError(f'{path}: it is no text in UTF-8', 'save it in UTF-8') from error
        if '\0' in text:
            raise RequestError(f'{path}: it has a NUL character', 'remove it')
        if size_bytes > MAX_FILE_BYTES:
            most = f'at most {MAX_FILE_BYTES} are taken'
            raise RequestError(f'{path}: {size_bytes} bytes, {most}', 'make it smaller')
        total_bytes += size_bytes
    if total_bytes > MAX_SET_BYTES:
        most = f'at most {MAX_SET_BYTES} are taken'
        raise RequestError(f'{total_bytes} bytes in all, {most}', 'push fewer files')


def _settings(text: str | None) -> SetSettings:
    if text is None:
        return SetSettings()
    try:
        settings = SetSettings(**tomllib.loads(text))
        checked_locale('default_locale', settings.default_locale)
        ZoneInfo(settings.time_zone)
    except (TypeError, ValueError, OSError, KeyError) as error:
        what, is_read = str(error)[:300], False
    else:
        what, is_read = 'inline_css must be true or false', type(settings.inline_css) is bool
    if not is_read:
        remedy = 'it may have default_locale, time_zone and inline_css'
        raise RequestError(f'{SETTINGS}: {what}', remedy)
    return settings


def _name(folder: str, path: str) -> str:
    if not NAME.fullmatch(folder):
        raise RequestError(
            f'{path}: {folder[:80]!a} is no name of a template',
            'use letters, digits, . _ and -; folders with _ in front hold what is shared',
        )
    return folder


def _note(found: FoundFiles, path: str, part: re.Match[str]) -> None:
    locale = part['locale'] or DEFAULT
    try:
        if locale != DEFAULT:
            locale = checked_locale(path, locale).lower()
    except InvalidEmailError as error:
        raise RequestError(str(error), 'name it as body.de-AT.html') from error
    if part['part'] == 'subject':
        if part['ending'] != 'txt':
            raise RequestError(f'{path}: a subject is text', 'call it subject.txt')
        known = found.subjects.setdefault(locale, path)
    else:
        known = found.bodies.setdefault(locale, {}).setdefault(part['ending'], path)
        if {'html', 'mjml'} <= found.bodies[locale].keys():
            raise RequestError(f'{path}: there is body.html beside body.mjml', 'keep one')
    if known != path:
        raise RequestError(f'{path}: {known} is for the same locale', 'keep one')


def _version(
    name: str, found: FoundFiles, files: Mapping[str, str], settings: SetSettings
) -> NewVersion:
    contents = {
        locale: _content(name, locale, found, files, settings)
        for locale in (DEFAULT, *sorted({*found.subjects, *found.bodies} - {DEFAULT}))
    }
    written = json.dumps(contents, sort_keys=True).encode()
    return NewVersion(name, hashlib.sha256(written).digest(), contents, _sample(name, files))


def _content(
    name: str, locale: str, found: FoundFiles, files: Mapping[str, str], settings: SetSettings
) -> dict[str, Any]:
    """Return what a template says in one locale, see mail/template/pushed.py."""
    # The text without a locale is that of the default locale, where there is no file for it.
    chain = [DEFAULT, *locale_chain(settings.default_locale)] if locale == DEFAULT else None
    chain = chain or locale_chain(locale)
    # Text and HTML come from one locale: a message says the same in both.
    bodies = next((found.bodies[one] for one in chain if one in found.bodies), None)
    if bodies is None:
        raise RequestError(
            f'{name}: it has no body for locales that have none of their own',
            f'add body.html without a locale, or set default_locale in {SETTINGS}',
        )
    subject = next((found.subjects[one] for one in chain if one in found.subjects), None)
    html = bodies.get('html') or bodies.get('mjml')
    parts = [path for path in (subject, bodies.get('txt'), html) if path]
    return {
        'files': _with_all_named(parts, files),
        'subject': subject,
        'body_text': bodies.get('txt'),
        'body_html': html,
        'locale': locale,
        'default_locale': settings.default_locale,
        'time_zone': settings.time_zone,
        'inline_css': settings.inline_css,
        'is_mjml': 'mjml' in bodies,
    }


def _with_all_named(paths: list[str], files: Mapping[str, str]) -> dict[str, str]:
    """Return these files, and those that they or others of them name in quotes."""
    named: dict[str, str] = {}
    left = list(paths)
    while left:
        path = left.pop()
        if path not in named:
            named[path] = files[path]
            words = {a or b for a, b in QUOTED.findall(files[path])}
            left += words & files.keys()
    return named


def _sample(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    path = f'{name}/{SAMPLE}'
    try:
        sample = json.loads(files.get(path, '{}'))
    except (ValueError, RecursionError) as error:
        raise RequestError(f'{path}: it is no JSON: {str(error)[:200]}', 'correct it') from error
    if not isinstance(sample, dict):
        raise RequestError(f'{path}: it is no JSON object', 'write {"name": value, ...}')
    if '\\u0000' in json.dumps(sample):
        raise RequestError(f'{path}: it has a NUL character', 'remove it')
    return sample
