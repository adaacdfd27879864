"""The overview: what needs a person first, then the numbers. It shows no address and no subject.

It changes by itself: a stream of server-sent events carries it anew when something has changed, to
however many pages are open made once; without JavaScript the page reloads itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from itertools import starmap
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from db.selection import RETRYING
from fleet.ingresses import ACCEPTED
from mail_outbox.states import Status
from reporting.history import WINDOWS
from reporting.judge import level_of
from reporting.judge_ingresses import ingress_state, refused_by
from reporting.problems import Document, Level, Problem
from reporting.seen_at import SEEN_AT
from reporting.wording import SWITCH_WORDS, cell, counted_when, fault, length, megabytes
from web.auth.door import LoginNeededError
from web.overview import LONGEST_TEXT, judge_reading, masked
from web.pages.desk import TEMPLATES, desk_of, page
from web.pages.trends import FIRST_WINDOW, Trends
from web.place import root_of
from web.watch import Reading, Source

router = APIRouter(include_in_schema=False)

THEN = '<!--then-->'  # between what comes before the charts and what comes after
HEADINGS = {Level.OK: 'Nothing is wrong', Level.LOOK: 'Worth a look', Level.ACT: 'Act now'}
TOLD_EVERY_S = 2.0
STREAM_S = 300.0  # then the browser asks again: who went away costs nothing for long

# What the tiles count, where each leads, and the colour when it is not 0.
TILES: Sequence[tuple[str, str, str, str]] = (
    ('due', 'due', f'/mail?status={Status.PENDING}&status={RETRYING}', 'way'),
    ('scheduled', 'scheduled', f'/mail?status={Status.PENDING}', 'way'),
    ('sending', 'sending', f'/mail?status={Status.SENDING}', 'way'),
    ('retrying', 'retrying', f'/mail?status={RETRYING}', 'look'),
    ('dead', 'dead', '/mail?status=dead', 'act'),
    ('uncertain', 'uncertain', f'/mail?status={Status.UNCERTAIN}', 'look'),
    ('held', 'held', f'/mail?status={Status.HELD}&status={Status.UNCERTAIN}', 'look'),
    ('past_expiry', 'past expiry', f'/mail?status={Status.PENDING}', 'look'),
    ('stuck', 'stuck', f'/mail?status={Status.SENDING}', 'act'),
    ('sent_last_hour', 'sent last hour', f'/mail?status={Status.SENT}&within=1h', 'fine'),
)


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
class OverviewTable:
    """One part of the page.

    question is the answer it shows, see web.questions; cells makes a row of each item.
    """

    title: str
    question: str
    source: Source
    columns: Sequence[str]
    cells: Callable[[Document], Iterable[Any]]


TABLES = tuple(starmap(OverviewTable, (
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
    ('Failed attempts of the last hour, by reason', 'failures', Source.POSTGRESQL,
     ('attempts', 'reason', 'relay', 'last'),
     lambda f: (f['attempts'], _reason(f), f['relay'], _ago(f['last_s']))),
    ('Paused', 'switches', Source.POSTGRESQL,
     ('what', 'name', 'since', 'reason'),
     lambda s: (SWITCH_WORDS[s['kind']], s['name'], s['paused_at'],
                masked(s['reason']))),
    ('Duties', 'duties', Source.POSTGRESQL,
     ('duty', 'slot', 'started', 'outcome', 'affected', 'last success', 'error'),
     lambda d: (d['duty'], d['slot'], _ago(d['started_s']), d['outcome'], d['affected'],
                d['succeeded_at'], fault(d['detail']) if d['outcome'] == 'error' else '')),
    ('Services, as a worker sees them', 'services', Source.POSTGRESQL,
     ('service', 'status', 'checked', 'ms', 'error'),
     lambda s: (s['service'], s['status'], _ago(s['checked_s']), s['response_time_ms'],
                masked(s['error']))),
)))  # fmt: skip


def _rows(answer: Any, cells: Callable[[Document], Iterable[Any]]) -> list[list[tuple[str, bool]]]:
    """Return each value as text, and whether it is a number."""
    items = answer if isinstance(answer, list) else [answer]
    return [
        [(_text(value), isinstance(value, int | float)) for value in cells(item)] for item in items
    ]


@lru_cache(maxsize=2)
def render_overview(reading: Reading, root: str = '') -> str:
    """Return the overview's own part. Names, numbers and codes only.

    Args:
        root: What stands before each path, see web.place.
    """
    found, problems = reading.found, judge_reading(reading)
    level = level_of(problems)
    return TEMPLATES.get_template('overview_part.html').render(
        root=root,
        heading=HEADINGS[level],
        level=level,
        problems=[
            (
                problem.level,
                _text(masked(problem.line)),
                SEEN_AT.get(problem.kind or ''),
            )
            for problem in problems
        ],
        outbox=found.get('outbox'),
        outbox_age=_age(reading, 'outbox', Source.POSTGRESQL) or _counted(found.get('outbox')),
        tiles=TILES,
        tables=[
            (
                table,
                _rows(found[table.question], table.cells) if table.question in found else None,
                _age(reading, table.question, table.source),
            )
            for table in TABLES
        ],
    )


def _age(reading: Reading, question: str, source: Source) -> str | None:
    """Return what is said of an answer of before; None of one that is new."""
    if question not in reading.ages:
        return None
    return f'{source} does not answer: as it was {_ago(reading.ages[question])}'


def _counted(outbox: Document | None) -> str | None:
    counted_at = counted_when(outbox) if outbox else 'now'
    return None if counted_at == 'now' else f'what is much was counted {counted_at}'


@router.api_route('/', methods=['GET', 'HEAD'])
async def overview_page(request: Request) -> Response:
    """Show the overview, also to who has not logged in where nobody is asked for a token."""
    desk = desk_of(request)
    reading = await desk.watch.look()
    visitor = await desk.door.visitor_or_nobody(request)
    if visitor.principal is None and not request.scope['may_look']:
        raise LoginNeededError
    first, _, then = render_overview(reading, root_of(request.scope)).partition(THEN)
    window = request.query_params.get('window', FIRST_WINDOW)
    trends = await desk.trends.find(window)
    return await page(
        request, visitor, 'overview.html', first=first, then=then,
        may_look=request.scope['may_look'],
        trends=trends if isinstance(trends, Trends) else None,
        trends_problem=trends if isinstance(trends, Problem) else None,
        windows=WINDOWS, window=window if window in WINDOWS else FIRST_WINDOW,
    )  # fmt: skip


@router.get('/live')
async def live_overview(request: Request) -> Response:
    """Stream the overview whenever it has changed."""
    desk = desk_of(request)
    visitor = await desk.door.visitor_or_nobody(request)
    if visitor.principal is None and not request.scope['may_look']:
        return Response(status_code=HTTPStatus.UNAUTHORIZED)
    return StreamingResponse(
        _stream(request), media_type='text/event-stream', headers={'X-Accel-Buffering': 'no'}
    )


async def _stream(request: Request) -> AsyncIterator[str]:
    desk, root, shown = desk_of(request), root_of(request.scope), ''
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + STREAM_S
    yield f'retry: {int(TOLD_EVERY_S * 1000)}\n\n'
    while loop.time() < ends_at and not desk.is_stopping.is_set():
        part = render_overview(await desk.watch.look(), root)
        if part != shown:
            shown = part
            yield ''.join(f'data: {line}\n' for line in part.splitlines()) + '\n'
        else:
            yield ': still here\n\n'
        try:
            async with asyncio.timeout(TOLD_EVERY_S):
                await desk.is_stopping.wait()
        except TimeoutError:
            continue
