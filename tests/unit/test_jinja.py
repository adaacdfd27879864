"""Filling a stored template: what comes out, and what is refused before it fills the memory."""

import json
import tracemalloc
from typing import Any

import pytest

from mail.template import jinja as template
from mail.template.jinja import TemplateError, fill, fill_parts
from mail_outbox.envelope import Template
from tests.unit.reader import TEXT, content_of, read

SOURCES = (TEXT.subject, TEXT.body_text, TEXT.body_html)


def filled(source: str, **data: Any) -> str:
    return fill('body_text', source, data)


def test_template_fills_all_parts_and_escapes_html_only() -> None:
    message = read(
        template=TEXT, template_data='{"name": "Anna <3 & ü"}', subject='unused', body_text='unused'
    )
    assert message['Subject'] == 'Hello Anna <3 & ü'
    assert content_of(message, 'plain') == 'Dear Anna <3 & ü,\n'
    assert content_of(message, 'html') == '<p>Dear Anna &lt;3 &amp; ü,</p>\n'


def test_part_that_the_template_lacks_is_the_rows_own() -> None:
    message = read(template=Template(None, None, '<p>{{ n }}</p>'), template_data='{"n": 1}')
    assert (message['Subject'], content_of(message, 'plain')) == ('Hello', 'Hello, Anna.\n')
    assert content_of(message, 'html') == '<p>1</p>\n'


def test_subject_of_a_template_becomes_one_line() -> None:
    source = '{% if name %}\n  Hello\n  {{ name }}\n{% endif %}\n'
    assert (
        fill('subject', source, {'name': 'Anna\r\nBcc: x@example.com'})
        == 'Hello Anna Bcc: x@example.com'
    )


# Arithmetic is free.


@pytest.mark.parametrize(
    ('source', 'text'),
    [
        ('{{ qty * price }}', '15000000'),
        ('{{ 1500 ** 2 }}', '2250000'),
        ('{{ 1000000 * 1000000 * 1000000 }}', '1000000000000000000'),
        ('{{ 123456789012 * 98765.4321 }}', str(123456789012 * 98765.4321)),
        ('{{ 2 ** 64 }}', str(2**64)),
        ('{{ 1.05 ** 1200 }}', str(1.05**1200)),
        ('{{ 2 ** -1 }}', '0.5'),
        ('{{ (10 ** 4000) % 7 }}', str(10**4000 % 7)),
        ('{{ 10 ** 4000 // 10 ** 3990 }}', str(10**10)),
        ('{{ -3 * 4 }} {{ true * 5 }} {{ 0 ** 0 }}', '-12 5 1'),
        ("{{ '%.2f' % (qty * price / 100) }}", '150000.00'),
        ("{{ '{:,.2f}'.format(1234567.891) }}", '1,234,567.89'),
        ('{{ 5000000000000 | filesizeformat }}', '5.0 TB'),
        ('{{ 99999999999 | default(5) | round }}', '99999999999'),
        ('{{ range(50000) | sum }}', '1249975000'),
    ],
)
def test_arithmetic_is_free(source: str, text: str) -> None:
    assert filled(source, qty=1000, price=15000) == text


@pytest.mark.parametrize(
    ('source', 'text'),
    [
        ("{{ '-' * 70 }}", '-' * 70),
        ('{{ [1, 2] * 2 }}', '[1, 2, 1, 2]'),
        ("{{ 'a' | center(9) }}", '    a    '),
        ("{{ 'a'.rjust(4) ~ 'b'.zfill(4) }}", '   a000b'),
        ("{{ 'a' + 'b' }}", 'ab'),
        ('{{ [1, 2, 3] | batch(2) | list }}', '[[1, 2], [3]]'),
        ("{{ 'a b' | wordwrap(1) }}", 'a\nb'),
        ("{{ {'a': 1} | tojson }}", '{"a": 1}'),
        ("{{ dict(name='a', function='b', self=1, context=2, called=3).name }}", 'a'),
        ('{% macro m(name, function) %}{{ name }}{% endmacro %}{{ m(name=1, function=2) }}', '1'),
        ("{{ 'a' | default('b', boolean=true) | replace('a', 'c') | upper }}", 'C'),
    ],
)
def test_ordinary_repetition_passes(source: str, text: str) -> None:
    assert filled(source) == text


# Repetition is limited by its result.


@pytest.mark.parametrize(
    ('source', 'operator'),
    [
        ("{{ 'x' * 10 ** 9 }}", r'\*'),
        ("{{ 10 ** 9 * 'x' }}", r'\*'),
        ('{{ [1] * 10 ** 9 }}', r'\*'),
        ('{{ (1, 2) * 10 ** 9 }}', r'\*'),
        ("{{ 'x'.encode() * 10 ** 9 }}", r'\*'),
        ("{{ ('x' | escape) * 10 ** 9 }}", r'\*'),
        ('{{ 9 ** (9 ** 9) }}', r'\*\*'),
        ('{{ (2 ** 400000) * (2 ** 400000) * (2 ** 400000) }}', r'\*'),
        ("{{ 'x' | center(300000000) }}", 'center'),
        ("{{ 'x' | center(width=300000000) }}", 'center'),
        ("{{ 'x'.center(300000000) }}", 'center'),
        ("{{ 'x'.ljust(300000000) }}", 'ljust'),
        ("{{ 'x'.rjust(300000000) }}", 'rjust'),
        ("{{ 'x'.zfill(300000000) }}", 'zfill'),
        ("{{ '\t'.expandtabs(300000000) }}", 'expandtabs'),
        ("{{ 'a\nb' | indent(300000000) }}", 'indent'),
        ('{{ [1, 2] | tojson(indent=300000000) }}', 'tojson'),
        ("{{ ['x'] | map('center', 300000000) | list }}", 'center'),
        ("{{ ('x' * 9000000) + ('x' * 9000000) }}", r'\+'),
    ],
)
def test_repetition_is_refused_before_it_is_made(source: str, operator: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(
            TemplateError, match=f'OverflowError: the result of {operator} is too large'
        ):
            filled(source)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 40_000_000


@pytest.mark.parametrize(
    'source',
    [
        "{{ ('a' * 5000).replace('a', 'b' * 5000) }}",
        "{{ ('a' * 5000) | replace('a', 'b' * 5000) }}",
        "{{ ('x' * 5000) | join('y' * 5000) }}",
        "{{ ('y' * 5000).join(['x'] * 5000) }}",
        "{{ '%20000000d' | format(1) }}",
        "{{ '%20000000d' % 1 }}",
        "{{ '{:>20000000}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=20000000) }}",
        "{{ '{a:>20000000}'.format_map({'a': 1}) }}",
    ],
)
def test_result_that_is_too_large_is_refused_whatever_made_it(source: str) -> None:
    with pytest.raises(
        TemplateError, match=r'the result of .* is too large|it makes \d+ characters'
    ):
        filled(source)


# What else can be wrong.


@pytest.mark.parametrize(
    ('source', 'error'),
    [
        ('{{ missing }}', r"template body_text: UndefinedError: 'missing' is undefined"),
        ('{{ name.missing }}', 'UndefinedError'),
        ('{{ unclosed', 'TemplateSyntaxError'),
        ('{{ 1 // 0 }}', 'ZeroDivisionError'),
        ('{% for i in range(10**9) %}{% endfor %}', 'OverflowError'),
        ('{{ name.__class__.__mro__ }}', 'SecurityError'),
        ('{{ cycler.__init__.__globals__.os.popen("id").read() }}', 'SecurityError'),
        ('{% include "/etc/passwd" %}', 'template body_text: TypeError'),
        ('{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}', 'RecursionError'),
        ('{{ ' + '(' * 5000, 'RecursionError|TemplateSyntaxError'),
        ('{{ "a\\0b" }}', 'it makes a NUL character'),
        ('{{ "\\ud800" }}', 'it makes half a character'),
        ('{{ half }}', 'it makes half a character'),
    ],
)
def test_template_that_fails_is_refused_with_its_reason(source: str, error: str) -> None:
    with pytest.raises(TemplateError, match=error):
        filled(source, name='Anna', half='\ud800')


def test_reason_is_short_and_printable() -> None:
    with pytest.raises(TemplateError) as caught:
        filled('{{ [1][name] }}', name='\0\x1b[31m' + 'x' * 100_000)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_part_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        TemplateError, match=r'template body_html: it makes 11 characters, at most 10 are allowed'
    ):
        fill_parts((None, None, '{{ "x" * 11 }}'), None, 10)


@pytest.mark.parametrize('text', ['{', '', '[' * 100_000, '{"a":' * 100_000, 'NaN?', '9' * 5000])
def test_data_that_is_not_json_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(TemplateError, match=r'^template_data: is not JSON'):
        fill_parts(SOURCES, text, 1000)


@pytest.mark.parametrize('text', ['[]', '1', '"\\"a\\""', 'NaN'])
def test_data_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match=r'^template_data: must be a JSON object'):
        fill_parts(SOURCES, text, 1000)


@pytest.mark.parametrize('text', ['{"name": "Anna"}', '"{\\"name\\": \\"Anna\\"}"'])
def test_data_is_read_also_from_inside_a_json_string(text: str) -> None:
    """Adopted tables hold it so."""
    assert fill_parts(SOURCES, text, 1000)[0] == 'Hello Anna'


@pytest.mark.parametrize('text', [None, 'null', '"null"', '{}'])
def test_data_may_be_empty(text: str | None) -> None:
    assert fill_parts(('Hello', None, None), text, 1000) == ['Hello', None, None]


def test_compiled_templates_are_kept_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, 'MAX_CACHED_CHARS', 10_000)
    monkeypatch.setattr(template, '_cached_chars', 0)
    template._compiled.cache_clear()
    for number in range(95):
        assert filled(f'{number} ' + 'x' * 1000) == f'{number} ' + 'x' * 1000
        assert template._compiled.cache_info().currsize <= 11
    hits = template._compiled.cache_info().hits
    filled('94 ' + 'x' * 1000)
    assert template._compiled.cache_info().hits == hits + 1


def test_json_of_the_data_is_what_the_application_gave() -> None:
    data = json.dumps({'items': [{'name': 'ü', 'n': 1.5}, None, True]})
    assert (
        fill_parts((None, '{{ items }}', None), data, 1000)[1]
        == "[{'name': 'ü', 'n': 1.5}, None, True]"
    )
