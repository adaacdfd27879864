"""What `ops status` reports, as a document, and as a page for people."""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import starmap
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fleet.ingresses import ACCEPTED
from logs import hide_addresses
from reporting.judge import judge, level_of
from reporting.judge_ingresses import ingress_state, refused_by
from reporting.overview import FLEET, STORED, mark_foreign
from reporting.problems import Document, Level, Problem
from reporting.wording import DEEPEST, SWITCH_WORDS, cell, fault, length, megabytes
from web.watch import Reading, Source

TEMPLATES = Path(__file__).parent / 'templates'
STYLE = (TEMPLATES / 'style.css').read_text(encoding='utf-8')
STYLE_HASH = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"

HEADINGS = {Level.OK: 'nothing is wrong', Level.LOOK: 'worth a look', Level.ACT: 'act now'}
# Words of relays, of errors and of whoever queued a job: there may be addresses in them.
FREE_TEXT = frozenset({'detail', 'error', 'last_error', 'reason', 'problem', 'job_id', 'what'})
LONGEST_TEXT = 500  # names and ids come from whoever may write to Redis


@lru_cache(maxsize=2)
def judge_reading(reading: Reading) -> list[Problem]:
    """Judge as `ops status` does; where a source did not answer, that is the problem."""
    found = reading.found
    fleet, stored = (
        {name: found[name] for name in names} if all(name in found for name in names) else None
        for names in (FLEET, STORED)
    )
    for part in ('workers', 'ingresses'):
        mark_foreign(found.get(part, ()), found.get('database'))
    return [
        *(reading.problems[source] for source in Source if source in reading.problems),
        *judge(fleet, stored),
    ]


@lru_cache(maxsize=1)
def as_status(reading: Reading) -> Document:
    """Return the document of `ops status --json`.

    What was not answered is None, and addresses are hidden.
    """
    problems = judge_reading(reading)
    answers = {'level': level_of(problems).value} | {
        name: reading.found.get(name) for name in (*FLEET, *STORED)
    }
    document: Document = _hide(
        answers | {'troubles': [problem.as_document() for problem in problems]}
    )
    return document


def _hide(value: Any, *, free: bool = False, depth: int = 0) -> Any:
    """Return a value without addresses.

    What a record can hold and JSON cannot is left out: NaN, lists without end.
    """
    match value:
        case dict() | list() if depth > DEEPEST:
            return None
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {
                name: _hide(part, free=free or name in FREE_TEXT, depth=depth + 1)
                for name, part in value.items()
            }
        case list():
            return [_hide(part, free=free, depth=depth + 1) for part in value]
        case str() if free:
            return _hidden(value)
        case _:
            return value


def _hidden(text: str | None) -> str | None:
    """Return text without addresses.

    It is cut first: the search takes the square of its length, minutes for a long id.
    """
    return hide_addresses(text and text[:LONGEST_TEXT])


def _text(value: Any) -> str:
    """Return a value as one short line of harmless text."""
    return cell(value)[:LONGEST_TEXT]


def _ago(seconds: float) -> str:
    return f'{length(seconds)} ago'


def _outcomes(worker: Document) -> str:
    return ', '.join(f'{name} {n}' for name, n in sorted(worker['outcomes'].items()) if n)


def _state(worker: Document) -> str:
    is_paused = worker['state'] == 'paused' and worker['paused']
    state = ', '.join(worker['paused']) if is_paused else worker['state']
    return f'{state}, of another application' if worker.get('foreign') else state


def _reason(failure: Document) -> str:
    """Return why attempts failed, in codes and phases: rejected, 550 5.1.1, at rcpt."""
    codes = ' '.join(str(failure[name]) for name in ('smtp_code', 'enhanced_code') if failure[name])
    return ', '.join(part for part in (failure['outcome'], codes, f'at {failure["phase"]}') if part)


@dataclass(frozen=True, slots=True)
class PageTable:
    """One part of the page.

    question is the answer it shows, see web.questions; cells makes a row of each item.
    """

    title: str
    question: str
    source: Source
    columns: Sequence[str]
    cells: Callable[[Document], Iterable[Any]]


TABLES = tuple(starmap(PageTable, (
    ('Workers', 'workers', Source.REDIS,
     ('worker', 'queue', 'state', 'up', 'seen', 'sending', 'e-mails/s', 'attempts', 'memory',
      'version'),
     lambda w: (w['worker'], w['queue'], _state(w), length(w['uptime_s']), _ago(w['seen_ago_s']),
                w['sending'], w['emails_per_s'], _outcomes(w), megabytes(w['rss_bytes']),
                w['version'])),
    ('Queues', 'queues', Source.REDIS,
     ('queue', 'ready', 'deferred', 'running', 'oldest', 'served'),
     lambda q: (q['name'], q['ready'], q['deferred'], q['running'], length(q['oldest_ready_s']),
                'yes' if q['served'] else 'no')),
    ('SMTP ingresses', 'ingresses', Source.REDIS,
     ('ingress', 'place', 'state', 'up', 'connections', 'accepted', 'refused', 'version'),
     lambda i: (i['ingress'], i['place'], ingress_state(i), length(i['uptime_s']),
                i['connections'], i['outcomes'].get(ACCEPTED, 0), refused_by(i), i['version'])),
    ('Outbox', 'outbox', Source.POSTGRESQL,
     ('due', 'oldest due', 'scheduled', 'sending', 'stuck', 'retrying', 'dead', 'uncertain', 'held',
      'past expiry', 'sent last hour', 'in part last day'),
     lambda o: (o['due'], length(o['oldest_due_s']), o['scheduled'], o['sending'], o['stuck'],
                o['retrying'], o['dead'], o['uncertain'], o['held'], o['past_expiry'],
                o['sent_last_hour'], o['sent_in_part_last_day'])),
    ('Failed attempts of the last hour, by reason', 'failures', Source.POSTGRESQL,
     ('attempts', 'reason', 'relay', 'last'),
     lambda f: (f['attempts'], _reason(f), f['relay'], _ago(f['last_s']))),
    ('Paused', 'switches', Source.POSTGRESQL,
     ('what', 'name', 'since', 'reason'),
     lambda s: (SWITCH_WORDS[s['kind']], s['name'], s['paused_at'], _hidden(s['reason']))),
    ('Duties', 'duties', Source.POSTGRESQL,
     ('duty', 'slot', 'started', 'outcome', 'affected', 'last success', 'error'),
     lambda d: (d['duty'], d['slot'], _ago(d['started_s']), d['outcome'], d['affected'],
                d['succeeded_at'], fault(d['detail']) if d['outcome'] == 'error' else '')),
    ('Services, as a worker sees them', 'services', Source.POSTGRESQL,
     ('service', 'status', 'checked', 'ms', 'error'),
     lambda s: (s['service'], s['status'], _ago(s['checked_s']), s['response_time_ms'],
                _hidden(s['error']))),
)))  # fmt: skip

PAGE = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template('overview.html')


def _rows(answer: Any, cells: Callable[[Document], Iterable[Any]]) -> list[list[str]]:
    items = answer if isinstance(answer, list) else [answer]
    return [[_text(value) for value in cells(item)] for item in items]


@lru_cache(maxsize=1)
def render_overview(reading: Reading) -> str:
    """Return the page. Names, numbers and codes only: no address and no subject is on it."""
    found, problems = reading.found, judge_reading(reading)
    return PAGE.render(
        heading=HEADINGS[level_of(problems)],
        problems=[(problem.level, _text(_hidden(problem.line))) for problem in problems],
        tables=[
            (table, _rows(found[table.question], table.cells) if table.question in found else None)
            for table in TABLES
        ],
        at=_text(datetime.now(UTC)),
        style=STYLE,
    )
