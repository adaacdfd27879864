"""Stored templates: Jinja2, in a sandbox."""

import functools
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from mail.envelope import InvalidEmailError

MAX_PRODUCT = 10_000_000


# Sandboxed: whoever may edit a template must not be able to run code in the worker. Strict: a missing variable is an
# error that names it, never a blank in somebody's receipt.
class _Sandbox(SandboxedEnvironment):
    intercepted_binops = frozenset({'*', '**'})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse products that would fill the memory: 'x' * 10**9."""
        sizes = [len(value) if hasattr(value, '__len__') else abs(value) for value in (left, right)]
        if (operator == '**' and max(sizes) > 1000) or sizes[0] * sizes[1] > MAX_PRODUCT:
            raise OverflowError(f'the result of {operator} is too large')
        return super().call_binop(context, operator, left, right)


_TEXT = _Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
_HTML = _Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=True)


@functools.lru_cache(maxsize=512)
def _compiled(part: str, source: str) -> jinja2.Template:
    return (_HTML if part == 'body_html' else _TEXT).from_string(source)


def fill(part: str, source: str, data: Mapping[str, Any]) -> str:
    """Fill one part of a stored template; body_html is escaped, the others are not.

    Raises:
        InvalidEmailError: the template, or what it is filled with, is wrong; the message says which part.
    """
    try:
        return _compiled(part, source).render(data)
    except Exception as error:
        # A template is a program: it can raise anything (ZeroDivisionError, OverflowError, its own filters' errors).
        raise InvalidEmailError(f'template {part}: {type(error).__name__}: {error}') from error
