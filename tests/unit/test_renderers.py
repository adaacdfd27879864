"""Renderers: what one e-mail's template costs no other, with real processes."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mail.template import process as renderer_process
from mail.template import renderers as templates
from mail.template.asking import MAX_REQUEST_BYTES
from mail.template.renderer import CPU_S, KEPT_BYTES, LENGTH, MEMORY_BYTES
from mail.template.renderers import Templates, TemplatesUnavailableError
from mail_outbox.envelope import InvalidEmailError, Template
from tests.conftest import ROOT, wait_until

ORDINARY = Template('Hello {{ name }}', 'Dear {{ name }},', '<p>{{ name }}</p>')
ENDLESS = '{% for a in range(50000) %}{% for b in range(50000) %}{% endfor %}{% endfor %}'
DEADLINE_S = 120.0


@pytest.fixture
async def renderers() -> AsyncIterator[Templates]:
    renderers = Templates(10_000_000)
    yield renderers
    await renderers.close()


async def fill(renderers: Templates, text: str, **data: Any) -> str | None:
    async with asyncio.timeout(DEADLINE_S):
        return (await renderers.fill(Template(None, text, None), json.dumps(data)))[1]


async def verdict(renderers: Templates, text: str, **data: Any) -> str:
    with pytest.raises(InvalidEmailError) as caught:
        await fill(renderers, text, **data)
    return str(caught.value)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if _is_renderer(child)]


def _is_renderer(child: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has just ended
        return 'mail.template.renderer' in child.cmdline()
    return False


async def test_template_is_filled_in_another_process(renderers: Templates) -> None:
    assert children() == []
    filled = await renderers.fill(ORDINARY, '{"name": "<Anna>"}')
    assert filled == ('Hello <Anna>', 'Dear <Anna>,', '<p>&lt;Anna&gt;</p>')
    assert len(children()) == 1
    await renderers.close()
    assert children() == []


async def test_many_at_once_get_each_their_own_from_one_renderer(renderers: Templates) -> None:
    filled = await asyncio.gather(*(fill(renderers, '{{ n }}', n=n) for n in range(1000)))
    assert filled == [str(n) for n in range(1000)]
    assert len(children()) == 1


async def test_urgent_e_mail_is_filled_before_those_that_wait(renderers: Templates) -> None:
    filled: list[str] = []

    async def one(name: str, *, first: bool = False) -> None:
        await renderers.fill(Template(None, name, None), None, first=first)
        filled.append(name)

    waiting = [
        asyncio.create_task(one(str(number))) for number in range(3 * renderer_process.READ_AHEAD)
    ]
    waiting.append(asyncio.create_task(one('urgent', first=True)))
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waiting)
    assert filled[0] == 'urgent'


async def test_renderer_has_none_of_the_workers_environment(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('DB_PASSWORD', 'secret')
    await renderers.fill(ORDINARY, '{"name": "Anna"}')
    (child,) = children()
    assert 'DB_PASSWORD' not in child.environ()


HOSTILE = {
    'loops': ENDLESS,
    'macros': (
        '{% macro m(n) %}{% if n < 60 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro '
        '%}{{ m(0) }}'
    ),
    'recursive loop': '{% for a in t recursive %}{{ loop(t) }}{{ loop(t) }}{% endfor %}',
    'a long step in C': (
        '{% set a = 10 ** 300000 %}{% for i in range(9999) %}{% set b = a % (a // 3) %}{% endfor %}'
    ),
    'sort': (
        '{% for i in range(99999) %}{% set _ = range(99999) | map("string") | sort | list '
        '%}{% endfor %}'
    ),
    'lipsum': '{{ lipsum(n=1000000) }}',
    'urlize': "{% for i in range(99999) %}{% set _ = ('www.a ' * 99999) | urlize %}{% endfor %}",
    'doubling with ~': (
        "{% set n = namespace(x='xxxxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x "
        '~ n.x %}{% endfor %}{{ n.x }}'
    ),
    'doubling a list': (
        '{% set l = [1] %}{% for i in range(60) %}{% set _ = l.extend(l) %}{% endfor %}'
    ),
    'nesting lists': (
        '{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] '
        '%}{% endfor %}{{ n.x }}'
    ),
    'a constant that is compiled': (
        "{{ 'x' | center(9999999) }}{{ 'x' | center(9999998) }}{{ 'x' | center(9999997) }}"
    ),
    'format': '{{ "%1000000000d" | format(1) }}',
    'str.format': "{{ '{:>999999999}'.format(1) }}",
    'center': "{{ 'x' | center(300000000) }}",
    'replace': "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    'power': '{{ 9 ** (9 ** 9) }}',
    'a list of lists': '{{ range(99999) | map("string") | map("center", 9999) | list | length }}',
    'sum of lists': '{{ ([[1] * 999999] * 999999) | sum(start=[]) | length }}',
    'parts without end': '{% for i in range(99999) %}{{ "x" * 99999 }}{% endfor %}',
}


@pytest.mark.parametrize('source', HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_template_is_refused_and_others_are_filled_meanwhile(
    renderers: Templates, source: str
) -> None:
    await fill(renderers, 'warm')
    hostile = asyncio.create_task(verdict(renderers, source, t=[1]))
    await asyncio.sleep(0)
    others = [fill(renderers, '{{ n }}', n=n) for n in range(50)]
    assert await asyncio.gather(*others) == [str(n) for n in range(50)]
    assert (await hostile).startswith('template')


async def test_template_over_its_time_is_told_as_such(renderers: Templates) -> None:
    assert (
        await verdict(renderers, ENDLESS)
        == f'template: it takes more than {CPU_S:g} s of processor time'
    )


async def test_template_over_its_memory_is_told_as_such_and_the_renderer_never_has_more(
    renderers: Templates,
) -> None:
    await fill(renderers, 'warm')
    at_rest_bytes = children()[0].memory_info().vms
    most = 0
    hostile = asyncio.create_task(verdict(renderers, HOSTILE['doubling with ~']))
    while not hostile.done():
        with suppress(psutil.Error):
            most = max([most, *(child.memory_info().vms for child in children())])
        await asyncio.sleep(0.005)
    assert (await hostile).endswith('it needs more memory than a template may take')
    assert most <= at_rest_bytes + MEMORY_BYTES + KEPT_BYTES + 2**20


async def test_data_that_is_hostile_is_refused_and_its_template_serves_others(
    renderers: Templates,
) -> None:
    source = '{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}{{ n }}'
    hostile = [asyncio.create_task(verdict(renderers, source, n=50_000)) for _ in range(2)]
    assert await asyncio.gather(*(fill(renderers, '{{ n }}', n=n) for n in range(20))) == [
        str(n) for n in range(20)
    ]
    assert all('processor time' in why for why in await asyncio.gather(*hostile))
    assert await fill(renderers, source, n=3) == '3'


async def test_e_mails_like_a_hostile_one_are_fast_again_after_the_first_that_is_not(
    renderers: Templates,
) -> None:
    source = '{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}{{ n }}'
    assert 'processor time' in await verdict(renderers, source, n=50_000)
    assert len(renderers._slow_keys) == 1
    assert await fill(renderers, source, n=3) == '3'  # data of about the same size
    assert renderers._slow_keys == {}


async def test_processor_time_of_the_start_is_no_e_mails(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a loaded machine, where Python takes longer to start than an e-mail may in the fast
    one.
    """
    slow = tmp_path / 'slow'
    slow.write_text(
        '#!/bin/sh\ni=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n'
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    slow.chmod(0o755)
    source = '{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}{{ n }}'
    assert 'processor time' in await verdict(renderers, source, n=50_000)
    monkeypatch.setattr(sys, 'executable', str(slow))
    assert await fill(renderers, source, n=3) == '3'
    assert renderers._slow_keys == {}


async def test_renderer_that_writes_nonsense_is_ended(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nonsense = tmp_path / 'nonsense'
    nonsense.write_text(
        "#!/bin/sh\nprintf '\\000\\000\\000\\010[0,null]'\nread x\nprintf "
        "'\\000\\000\\000\\014[1,[1,2,3,4]]'\nread x\n"
    )
    nonsense.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(nonsense))
    with pytest.raises(TemplatesUnavailableError):
        await fill(renderers, 'x\n')
    monkeypatch.undo()
    assert await fill(renderers, 'x') == 'x'


async def test_slow_template_within_its_budget_is_filled(renderers: Templates) -> None:
    source = '{% for a in range(n) %}{% for b in range(1000) %}{% endfor %}{% endfor %}done'
    assert await fill(renderers, source, n=8000) == 'done'


async def test_renderer_that_dies_takes_no_e_mail_with_it(renderers: Templates) -> None:
    await fill(renderers, 'warm')
    filling = [asyncio.create_task(fill(renderers, '{{ n }}', n=n)) for n in range(200)]
    await asyncio.sleep(0)
    for _ in range(3):
        for child in children():
            with suppress(psutil.Error):
                child.kill()
        await asyncio.sleep(0)
    assert await asyncio.gather(*filling) == [str(n) for n in range(200)]


async def test_renderer_that_is_stopped_is_replaced(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer_process, 'FROZEN_S', 0.3)
    await fill(renderers, 'warm')
    (child,) = children()
    child.suspend()
    assert await fill(renderers, 'after') == 'after'
    await wait_until(lambda: child not in children())


async def test_slow_e_mails_beyond_a_few_are_given_back(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, 'SLOW_WAITING', 1)
    await verdict(renderers, ENDLESS)
    outcomes = await asyncio.gather(
        *(fill(renderers, ENDLESS) for _ in range(20)), return_exceptions=True
    )
    given_back = [error for error in outcomes if isinstance(error, TemplatesUnavailableError)]
    assert 18 <= len(given_back) < 20
    assert all(
        isinstance(error, InvalidEmailError | TemplatesUnavailableError) for error in outcomes
    )


async def test_renderer_that_cannot_start_refuses_no_e_mail(
    renderers: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'executable', '/nonexistent/python')
    with pytest.raises(TemplatesUnavailableError, match='could not start'):
        await fill(renderers, 'x')
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    with pytest.raises(TemplatesUnavailableError, match='could not start: exit status 1'):
        await fill(renderers, 'x')
    monkeypatch.undo()
    assert await fill(renderers, 'x') == 'x'


async def test_e_mail_that_nobody_waits_for_any_more_is_left_out(renderers: Templates) -> None:
    task = asyncio.create_task(fill(renderers, ENDLESS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fill(renderers, 'x') == 'x'


@pytest.mark.parametrize('data', ['x' * (MAX_REQUEST_BYTES + 1), '"\ud800"', '[' * 100_000, None])
async def test_data_of_any_kind_is_refused_or_filled(
    renderers: Templates, data: str | None
) -> None:
    filling = renderers.fill(Template(None, '{{ a }}', None), data)
    with pytest.raises(InvalidEmailError, match=r'^template'):
        await filling


async def test_renderer_that_keeps_much_is_replaced(renderers: Templates) -> None:
    await fill(renderers, 'warm')
    (first,) = children()
    for number in range(100):  # folded into the compiled template, which is kept
        assert (
            len(await fill(renderers, f"{{{{ '{number}' | center(1000000) }}}}") or '') == 1_000_000
        )
    await wait_until(lambda: first not in children())
    assert await fill(renderers, 'x') == 'x'


def test_renderer_ends_when_its_worker_does() -> None:
    """Also killed with -9: its input ends."""
    with subprocess.Popen(
        [sys.executable, '-m', 'mail.template.renderer', '1000'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        (length,) = LENGTH.unpack(process.stdout.read(LENGTH.size))
        process.stdout.read(length)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, ignored)
        process.stdin.close()
        assert process.wait(60) == 0


def test_renderer_loads_nothing_that_a_template_has_no_use_for() -> None:
    loaded = subprocess.run(
        [sys.executable, '-c', 'import sys, mail.template.renderer; print(*sys.modules)'],
        check=True, capture_output=True, text=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip
    assert not {
        'asyncpg',
        'redis',
        'arq',
        'pymongo',
        'ssl',
        'structlog',
        'email.headerregistry',
    } & set(loaded)


def test_worker_does_not_load_jinja() -> None:
    assert 'jinja2' not in subprocess.run(
        [sys.executable, '-c', (
                'import sys, mail_outbox.render, '
                'mail.template.renderers; print(*sys.modules)'
        )],
        check=True, capture_output=True, text=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip


def test_unit_allows_what_renderers_need() -> None:
    """They limit themselves by prlimit64 and setitimer, which the filter of system calls must leave
    in.
    """
    unit = (Path(ROOT) / 'deploy/email-worker.service').read_text()
    assert 'SystemCallFilter=@system-service' in unit
    assert 'renderer' in unit
