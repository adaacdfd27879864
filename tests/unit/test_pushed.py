"""Pushed templates that are hostile end in a reason, and the renderer goes on or is replaced."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mail.template.jinja import TemplateError
from mail.template.pushed import fill_pushed
from mail.template.renderers import Templates
from mail_outbox.envelope import InvalidEmailError, Template
from tests.unit.test_renderers import children

GOOD = '<style>p { color: red }</style><p>{{ name }}</p>'


def pushed(html: str, files: dict[str, str] | None = None, **more: Any) -> str:
    content = {
        'files': {'w/body.html': html, 'w/subject.txt': 'Hi {{ name }}'} | (files or {}),
        'subject': 'w/subject.txt', 'body_text': None, 'body_html': 'w/body.html',
        'locale': 'default', 'default_locale': 'en', 'time_zone': 'UTC',
    }  # fmt: skip
    return json.dumps(content | more)


def filled(html: str, **more: Any) -> list[str | None]:
    return fill_pushed(pushed(html, **more), None, '{"name": "Anna <b>"}', 1_000_000)


@pytest.fixture
async def renderers() -> AsyncIterator[Templates]:
    renderers = Templates(10_000_000)
    yield renderers
    await renderers.close()


def test_styles_go_into_elements_and_the_text_is_made_from_html() -> None:
    subject, text, html = filled(GOOD)
    assert (subject, text) == ('Hi Anna <b>', 'Anna <b>\n')
    assert html is not None
    assert '<p style="color: red;">Anna &lt;b&gt;</p>' in html
    assert filled(GOOD, inline_css=False)[2] == GOOD.replace('{{ name }}', 'Anna &lt;b&gt;')


def test_link_keeps_its_address_in_the_text_and_what_is_hidden_stays_hidden() -> None:
    text = filled('<p style="display: none">no</p><a href="https://a.example/?x=1">Go</a>')[1]
    assert text == '[Go](https://a.example/?x=1)\n'


def test_style_sheet_and_include_from_elsewhere_are_not_fetched() -> None:
    html = filled('<link rel="stylesheet" href="http://127.0.0.1:9/x.css"><style>p{}</style>')[2]
    assert html is not None
    assert 'http://127.0.0.1:9/x.css' in html
    with pytest.raises(TemplateError, match='MJML'):
        filled('<mjml><mj-body><mj-include path="/etc/passwd"/></mj-body></mjml>', is_mjml=True)


@pytest.mark.parametrize(
    ('html', 'more', 'why'),
    [
        ('{% include "0" %}', {'files': {str(n): f'{{% include "{n + 1}" %}}' * 10
                                         for n in range(30)}}, 'processor time|Recursion|no file'),
        ('{% include "w/body.html" %}', {}, 'RecursionError'),
        ('{% for i in range(20000) %}<mj-section>{% endfor %}', {'is_mjml': True}, 'ended|MJML'),
        ('<p>{{ "x" * 9000000 }}</p>', {}, 'memory|processor time|characters'),
        ('{{ name.__class__ }}', {}, 'SecurityError'),
        ('{{ (1|currency("EUR")).__class__ }}', {}, 'SecurityError'),
        ('{{ name|datetime }}', {}, 'is no time'),
        ('{{ "\\0" }}', {}, 'NUL'),
    ],
)  # fmt: skip
async def test_hostile_template_ends_in_a_reason_and_the_next_is_filled(
    renderers: Templates, html: str, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidEmailError, match=why):
        await renderers.fill(Template(None, None, None, pushed(html, **more)), '{"name": "Anna"}')
    good = Template(None, None, None, pushed(GOOD))
    assert (await renderers.fill(good, '{"name": "Anna"}'))[0] == 'Hi Anna'


async def test_renderer_loads_what_pushed_templates_need_when_the_first_comes(
    renderers: Templates,
) -> None:
    plain = Template('Hi', 'there', None)
    await renderers.fill(plain, None)
    [first] = children()
    assert 'pushed' not in first.cmdline()
    good = Template(None, None, None, pushed(GOOD))
    assert (await renderers.fill(good, '{"name": "A"}'))[0] == 'Hi A'
    [second] = children()
    assert 'pushed' in second.cmdline()
    assert await renderers.fill(plain, None) == ('Hi', 'there', None)
    assert children() == [second]


@pytest.mark.parametrize('spoilt', ['', '[]', '{}', '{"files": 1}', 'null', '{"files": {}}'])
async def test_content_that_was_spoilt_is_wrong_and_not_tried_for_ever(
    renderers: Templates, spoilt: str
) -> None:
    with pytest.raises(InvalidEmailError, match=r'^template: '):
        await renderers.fill(Template(None, None, None, spoilt), None)
