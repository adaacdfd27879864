"""log_events.py: every log call uses a name of the list, with its level and fields.

docs/logs.md says the same.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from db.errors import DATABASE_EVENTS
from delivery.record import OUTCOME_EVENTS
from dev.logs_document import DOCUMENT, logs_document
from log_events import LOG_EVENTS
from mail.outcome import Outcome
from tests.conftest import ROOT

LEVELS = {'debug', 'info', 'warning', 'error', 'exception'}
OUTSIDE = {'tests', 'bench', 'dev'}  # and environments, whose names begin with a dot
# Of the context, or an exception's.
EVERYWHERE = {'email_id', 'job_id', 'exc_info'}
# Not by a literal at the call.
BY_TABLE = {*DATABASE_EVENTS.values(), *OUTCOME_EVENTS.values(), 'log.lines_dropped'}


class LogCall(NamedTuple):
    """A call of the log."""

    where: str
    level: str
    event: str
    fields: set[str]
    has_more: bool  # fields that are not written out at the call


def log_calls() -> Iterator[LogCall]:
    """Yield the calls of all our modules; arq's own lines go by its own logger."""
    for path in ROOT.rglob('*.py'):
        top = path.relative_to(ROOT).parts[0]
        if top in OUTSIDE or top.startswith('.'):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name('log'), attr=level)) if (
                    level in LEVELS
                ):
                    names = set(_fields(node))
                    where = f'{path.relative_to(ROOT)}:{node.lineno}'
                    assert [type(argument) for argument in node.args] == [ast.Constant], where
                    level = 'error' if level == 'exception' else level
                    fields = {name for name in names if name} - EVERYWHERE
                    yield LogCall(where, level, node.args[0].value, fields, None in names)


def _fields(call: ast.Call) -> Iterator[str | None]:
    """Yield the names of a call's fields; mail_outbox logs by the standard library: extra={...}."""
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(arg='extra', value=ast.Dict(keys=keys)):
                yield from (key.value for key in keys if isinstance(key, ast.Constant))
            case _:
                yield keyword.arg


CALLS = list(log_calls())


def test_every_log_call_uses_a_name_of_the_list():
    assert [(call.where, call.event) for call in CALLS if call.event not in LOG_EVENTS] == []
    assert len(CALLS) > 60


def test_every_name_of_the_list_is_used():
    assert LOG_EVENTS.keys() - {call.event for call in CALLS} - BY_TABLE == set()
    assert LOG_EVENTS.keys() >= BY_TABLE


def test_levels_are_those_of_the_list():
    used = defaultdict(set)
    for call in CALLS:
        used[call.event].add(call.level)
    wrong = {
        event: levels
        for event, levels in used.items()
        if event not in BY_TABLE and levels != set(LOG_EVENTS[event].level.split(', '))
    }
    assert wrong == {}


def test_fields_are_those_of_the_list():
    used, complete = defaultdict(set), defaultdict(lambda: True)
    for call in CALLS:
        used[call.event] |= call.fields
        complete[call.event] &= not call.has_more
    for event, fields in used.items():
        listed = set(LOG_EVENTS[event].fields.split())
        assert fields <= listed, event
        assert fields == listed or not complete[event] or event in BY_TABLE, event


def test_every_outcome_of_an_attempt_has_its_name():
    assert OUTCOME_EVENTS.keys() == set(Outcome) - {Outcome.LOST}


def test_document_says_what_the_list_says():
    assert DOCUMENT.read_text() == logs_document(), 'run python -m dev.logs_document'
