"""Stored templates: Jinja2, in a sandbox.

Only renderers run this, see mail/template/renderer.py; a worker never loads it.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

NOTHING: Mapping[str, str] = {}
PARTS = ('subject', 'body_text', 'body_html')

MAX_LENGTH = 10_000_000  # characters or items of one value
# Far beyond what can be printed (4,300 digits); 9**9**9 has a thousand million.
MAX_INT_BITS = 1_000_000
MAX_REASON_CHARS = 300
MAX_CACHED_CHARS = 2_000_000  # of source; compiled, it takes ten times as much

# Whose whole numbers are the width of the result.
WIDE = frozenset({
    'center', 'indent', 'wordwrap', 'truncate', 'batch', 'slice', 'tojson',
    'ljust', 'rjust', 'zfill', 'expandtabs',
})  # fmt: skip


class TemplateError(Exception):
    """A template, or what it is filled with, is wrong; the message says which part."""


class OutOfMemoryError(TemplateError):
    """It needs more memory than is left."""


def _check_length(name: str, length: int) -> None:
    if length > MAX_LENGTH:
        raise OverflowError(f'the result of {name} is too large')


def _bounded(name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a filter or a method; refuse a width or a result that is too large for the memory."""
    if name in WIDE:
        for value in (*args, *kwargs.values()):
            if type(value) is int:
                _check_length(name, value)
    result = function(*args, **kwargs)
    if isinstance(result, str | bytes | list | tuple):
        _check_length(name, len(result))
    return result


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # wraps: Jinja2 reads from the function whether it wants the context.
    return functools.wraps(function)(functools.partial(_bounded, name, function))


def _length_of_product(operator: str, left: Any, right: Any) -> None:
    """Refuse what would fill the memory, before it is made; numbers are free within reason."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == '*':
            bits = left.bit_length() + right.bit_length()
        else:
            bits = left.bit_length() * max(0, right) if operator == '**' else 0
        if bits > MAX_INT_BITS:
            raise OverflowError(f'the result of {operator} is too large')
    elif operator == '*' and (isinstance(left, int) or isinstance(right, int)):
        number, repeated = (left, right) if isinstance(left, int) else (right, left)
        if hasattr(repeated, '__len__'):
            _check_length(operator, len(repeated) * number)
    elif operator == '+' and hasattr(left, '__len__') and hasattr(right, '__len__'):
        _check_length(operator, len(left) + len(right))


# Sandboxed: whoever may edit a template must not be able to run code. Strict: a missing variable is
# an error that names it, never a blank in somebody's receipt.
class Sandbox(SandboxedEnvironment):
    """Where templates run."""

    intercepted_binops = frozenset({'*', '**', '+', '%'})

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, **options)
        self.add_filters(self.filters)

    def add_filters(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        """Give it filters, with what they make bounded."""
        bounded = {name: _bounded_filter(name, function) for name, function in filters.items()}
        self.filters = {**self.filters, **bounded}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate, unless the result is too large."""
        _length_of_product(operator, left, right)
        return _bounded(operator, super().call_binop, context, operator, left, right)

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call, unless the result is too large."""
        return _bounded(
            getattr(called, '__name__', ''), super().call, context, called, *args, **kwargs
        )


_TEXT = Sandbox(autoescape=False)
_HTML = Sandbox(autoescape=True)
_cached_chars = 0


@functools.lru_cache(maxsize=512)
def _compiled(part: str, source: str) -> jinja2.Template:
    return (_HTML if part == 'body_html' else _TEXT).from_string(source)


def _cached(part: str, source: str) -> jinja2.Template:
    global _cached_chars  # noqa: PLW0603 - the cache is global as well
    misses = _compiled.cache_info().misses
    template = _compiled(part, source)
    if _compiled.cache_info().misses != misses:
        _cached_chars += len(source)
        if _cached_chars > MAX_CACHED_CHARS:
            _cached_chars = 0
            _compiled.cache_clear()
    return template


def fill(part: str, source: str, data: Mapping[str, Any], max_chars: int = MAX_LENGTH) -> str:
    """Fill one part of a stored template; body_html is escaped, the others are not.

    Raises:
        TemplateError: the template, or what it is filled with, is wrong; the message says which
            part.
    """
    try:
        filled = _cached(part, source).render(data)
    except MemoryError as error:
        raise OutOfMemoryError(
            f'template {part}: it needs more memory than a template may take'
        ) from error
    except Exception as error:
        # A template is a program: it can raise anything (ZeroDivisionError, OverflowError, its own
        # filters' errors).
        raise TemplateError(
            f'template {part}: {type(error).__name__}: {printable(str(error))}'
        ) from error
    refuse_unsendable(f'template {part}', filled, max_chars)
    return one_line(filled) if part == 'subject' else filled


def one_line(text: str) -> str:
    """Return a subject: white space, line ends too, becomes single spaces."""
    return ' '.join(text.split())


def refuse_unsendable(what: str, filled: str, max_chars: int) -> None:
    """Refuse what no message can hold.

    Raises:
        TemplateError: says why.
    """
    if len(filled) > max_chars:
        raise TemplateError(
            f'{what}: it makes {len(filled)} characters, at most {max_chars} are allowed'
        )
    if '\0' in filled:
        raise TemplateError(f'{what}: it makes a NUL character')
    if not filled.isascii() and any('\ud800' <= c <= '\udfff' for c in filled):
        raise TemplateError(f'{what}: it makes half a character (a lone surrogate)')


def fill_parts(
    sources: Sequence[str | None],
    data: str | None,
    max_chars: int,
    own: Mapping[str, str] = NOTHING,
) -> list[str | None]:
    """Fill a template.

    Args:
        sources: Of PARTS, in this order; None for a part that the template lacks.
        data: A JSON object, not yet parsed; None for an empty one.
        max_chars: How long each part may become.
        own: Variables of ours; those in the data go before.
    Raises:
        TemplateError: says what is wrong.
    """
    values = {**own, **read_object(data)}
    return [
        None if source is None else fill(part, source, values, max_chars)
        for part, source in zip(PARTS, sources, strict=True)
    ]


def read_object(text: str | None) -> dict[str, Any]:
    """Read template_data.

    Raises:
        TemplateError: it is no JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
        if isinstance(value, str):  # adopted tables hold JSON inside JSON strings
            value = json.loads(value)
    except MemoryError as error:
        raise OutOfMemoryError(
            'template_data: it needs more memory than a template may take'
        ) from error
    except (ValueError, RecursionError) as error:
        raise TemplateError(f'template_data: is not JSON: {printable(str(error))}') from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TemplateError(f'template_data: must be a JSON object, not {type(value).__name__}')
    return value


def printable(text: str) -> str:
    """Return what an error says, short and in one line."""
    return ''.join(c if c.isprintable() else ' ' for c in text[:MAX_REASON_CHARS])
