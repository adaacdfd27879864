"""Pushed templates: the files of one version in one locale, filled with an e-mail's data.

They come as a JSON object:

    files           {path: source}: the parts, and all layouts and includes that they name
    subject, body_text, body_html    the path of each part, or null
    locale          whose text it is: a language tag, or 'default'
    default_locale  the language of 'default'
    time_zone       for dates and times
    inline_css      whether rules of <style> are put into the elements
    is_mjml         whether body_html is MJML
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2

from mail.template.check import check_files
from mail.template.finish import html_of_mjml, text_of_html, with_styles_inline
from mail.template.formats import LOCALE, ZONE, Formats
from mail.template.jinja import (
    MAX_CACHED_CHARS,
    NOTHING,
    PARTS,
    OutOfMemoryError,
    Sandbox,
    TemplateError,
    one_line,
    printable,
    read_object,
    refuse_unsendable,
)
from mail_outbox.locales import DEFAULT, locale_chain


class Bundle(NamedTuple):
    """A pushed template that is ready to be filled."""

    content: Mapping[str, Any]
    files: Mapping[str, str]
    formats: Formats
    text: Sandbox
    html: Sandbox


class _Files(jinja2.BaseLoader):
    """Templates that name each other: these and no others."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def get_source(self, _: jinja2.Environment, template: str) -> tuple[str, str, None]:
        if template not in self._files:
            raise jinja2.TemplateNotFound(template, f'there is no file {template[:200]!r}')
        return self._files[template], template, None


_bundles: OrderedDict[str, Bundle] = OrderedDict()  # by their JSON, the one used last at the end


def _bundle(pushed: str) -> Bundle:
    if pushed in _bundles:
        _bundles.move_to_end(pushed)
        return _bundles[pushed]
    content = json.loads(pushed)
    files, formats = content['files'], Formats(content.get('time_zone') or ZONE)
    loader = _Files(files)
    made = Bundle(
        content, files, formats,
        Sandbox(autoescape=False, loader=loader, auto_reload=False),
        Sandbox(autoescape=True, loader=loader, auto_reload=False),
    )  # fmt: skip
    for environment in (made.text, made.html):
        environment.add_filters(formats.filters())
    _bundles[pushed] = made
    while len(_bundles) > 1 and sum(map(len, _bundles)) > MAX_CACHED_CHARS:
        _bundles.popitem(last=False)
    return made


def fill_pushed(
    pushed: str,
    locale: str | None,
    data: str | None,
    max_chars: int,
    own: Mapping[str, str] = NOTHING,
    *,
    check: bool = False,
) -> list[str | None]:
    """Fill a pushed template.

    Args:
        pushed: The JSON object above.
        locale: The e-mail's.
        data, max_chars, own: See jinja.fill_parts.
        check: Look first for what this data does not show: wrong syntax in any file, variables
            that it lacks, names that are not written out.
    Returns:
        Of PARTS, in this order; None for a part that the template lacks. Where it has HTML and no
        text, the text is made from it.
    Raises:
        TemplateError: names the file, and the line where there is one.
    """
    bundle, values = _bundle(pushed), {**own, **read_object(data)}
    content, paths = bundle.content, [bundle.content[part] for part in PARTS]
    if check:
        check_files(bundle.text, bundle.files, paths, values)
    bundle.formats.locale = format_locale(content, locale)
    values = {'locale': bundle.formats.locale, **values}
    subject, text, html = (
        None if path is None else _fill(bundle, part, path, values)
        for part, path in zip(PARTS, paths, strict=True)
    )
    if html is not None:
        where = str(paths[2])
        if content.get('is_mjml'):
            html = html_of_mjml(where, html)
        if text is None:
            text = text_of_html(where, html)
        if content.get('inline_css', True) and '<style' in html.lower():
            html = with_styles_inline(where, html)
    for path, filled in zip(paths, (subject, text, html), strict=True):
        if filled is not None:
            refuse_unsendable(f'template {path or "text made from HTML"}', filled, max_chars)
    return [None if subject is None else one_line(subject), text, html]


def format_locale(content: Mapping[str, Any], locale: str | None) -> str:
    """Return the locale of dates and numbers: the e-mail's where it is of the text's language."""
    default = content.get('default_locale') or LOCALE
    own = default if content['locale'] == DEFAULT else content['locale']
    wanted = locale_chain(locale)
    language = own.lower().split('-')[0]
    return wanted[0] if wanted[0].split('-')[0] == language else own


def _fill(bundle: Bundle, part: str, path: str, values: Mapping[str, Any]) -> str:
    environment = bundle.html if part == 'body_html' else bundle.text
    try:
        return environment.get_template(path).render(values)
    except MemoryError as error:
        raise OutOfMemoryError(
            f'template {path}: it needs more memory than a template may take'
        ) from error
    except Exception as error:
        raise TemplateError(f'template {_place(bundle.files, path, error)}') from error


def _place(files: Mapping[str, str], path: str, error: Exception) -> str:
    """Say where it happened, and what: welcome/body.html line 3: UndefinedError: ..."""
    name, line = path, None
    if isinstance(error, jinja2.TemplateSyntaxError):
        name, line = error.name or path, error.lineno
    else:
        traceback = error.__traceback__
        while traceback is not None:  # the innermost is what the author is to look at
            filename = traceback.tb_frame.f_code.co_filename
            if filename in files:
                name, line = filename, traceback.tb_lineno
            traceback = traceback.tb_next
    where = name if line is None else f'{name} line {line}'
    what = getattr(error, 'message', None) or str(error)
    return f'{where}: {type(error).__name__}: {printable(what)}'
