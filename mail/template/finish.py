"""What becomes of a template's HTML once it is filled: MJML, CSS, and the text beside it.

Only renderers run this: libraries in C and Rust that read what comes from outside, within the
limits of a process of their own. Nothing is read from files or fetched.
"""

import contextlib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from mail.template.jinja import OutOfMemoryError, TemplateError, printable

LIBRARIES = ('css_inline', 'inscriptis', 'babel.dates', 'babel.numbers', 'mjml')


def load() -> None:
    """Import what pushed templates need; what is not installed is missed when it is used."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            import_module(name)


def html_of_mjml(what: str, source: str) -> str:
    """Return the HTML that MJML makes."""

    def convert() -> str:
        return str(_library('mjml', 'mjml-python').mjml2html(source))

    return _guarded(f'{what}: MJML', convert)


def with_styles_inline(what: str, html: str) -> str:
    """Return HTML whose rules of <style> stand in the elements; @media and the like stay."""
    return _guarded(f'{what}: CSS', lambda: str(_inliner().inline(html)))


def text_of_html(what: str, html: str) -> str:
    """Return what HTML says as text, with the addresses of its links."""
    return _guarded(f'{what}: as text', lambda: _text(html))


@lru_cache(maxsize=1)
def _inliner() -> Any:
    return _library('css_inline', 'css-inline').CSSInliner(
        keep_at_rules=True, keep_link_tags=True, load_remote_stylesheets=False
    )


def _text(html: str) -> str:
    inscriptis = _library('inscriptis', 'inscriptis')
    config = _library('inscriptis.model.config', 'inscriptis').ParserConfig(display_links=True)
    lines = inscriptis.get_text(html, config).splitlines()
    return '\n'.join(line.rstrip() for line in lines).strip() + '\n'


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise TemplateError(
            f'it needs {package}, which is not installed here: pip install {package}'
        ) from error


def _guarded(what: str, function: Callable[[], str]) -> str:
    """Call a library that may fail in any way.

    Raises:
        TemplateError: says what it said.
    """
    try:
        return function()
    except TemplateError as error:
        raise TemplateError(f'{what}: {error}') from error
    except MemoryError as error:
        raise OutOfMemoryError(f'{what}: it needs more memory than a template may take') from error
    except BaseException as error:  # Rust's panics are no Exception
        raise TemplateError(f'{what}: {type(error).__name__}: {printable(str(error))}') from error
