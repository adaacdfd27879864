"""A live screen: workers, rates, queues, the outbox, the last failures."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db import reports
from db.checkup import count_poisoned
from db.identity import read_identity
from db.switches import SwitchKind, read_switches
from logs import hide_addresses
from ops.answer import Answer
from ops.arguments import add_json, add_workers, wait_s
from ops.connect import Connections
from ops.fleet_tables import worker_state
from ops.output import BETWEEN, LEVEL_STYLES, make_console, style_of, widths
from reporting.history import WINDOWS, read_history
from reporting.judge import in_order, judge_outbox, judge_switches
from reporting.judge_fleet import judge_fleet
from reporting.live import Audience, read_living_fleet
from reporting.overview import as_rows, mark_foreign
from reporting.problems import Document, Problem, is_alive
from reporting.servers import answer_or_note
from reporting.wording import SWITCH_WORDS, cell, counted, counted_when, length, megabytes

FAILURES = 8
HEIGHTS = ' ▁▂▃▄▅▆▇█'
LONG = 40  # what is longer, such as an error, is cut here; the other commands show all of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        '--once', action='store_true', help='print it once; as without a terminal, or with --json'
    )
    parser.add_argument(
        '--interval', type=wait_s, default=2.0, metavar='SECONDS', help='between looks (default 2)'
    )
    add_workers(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Look once, or again and again until interrupted."""
    audience = Audience(options.workers, options.timeout)
    first = await look_at_fleet(connections, audience)
    if options.once or options.json or not sys.stdout.isatty():
        return first
    console = make_console()
    try:
        with Live(
            frame(first, console.width), console=console, screen=True, auto_refresh=False
        ) as live:
            while True:
                await asyncio.sleep(options.interval)
                seen = await look_at_fleet(connections, audience)
                live.update(frame(seen, console.width), refresh=True)
    except asyncio.CancelledError:  # Ctrl-C is how one leaves
        return Answer({}, streamed=True)


async def look_at_fleet(connections: Connections, audience: Audience) -> Answer:
    """Ask everybody at the same time; what does not answer is missing."""
    problems: list[Problem] = []
    fleet, stored = await asyncio.gather(
        read_living_fleet(connections, audience, problems),
        answer_or_note(connections.ask_postgres(read_screen), problems),
    )
    document: Document = {'at': datetime.now(UTC), 'workers': None, 'queues': None}
    if fleet is not None:
        document |= fleet
        mark_foreign(fleet['workers'], stored['database'] if stored else None)
        problems += judge_fleet(fleet)
    if stored is not None:
        is_worked = not fleet or is_alive(fleet)
        problems += judge_outbox(
            stored['outbox'], stored['paused_due'], stored['poisoned'], is_worked=is_worked
        )
        problems += judge_switches(stored['switches'], stored['paused_due'])
    document |= stored or dict.fromkeys(('outbox', 'last_minute', 'hour', 'failures', 'switches'))
    return Answer(document, in_order(problems))


async def read_screen(pool: asyncpg.Pool) -> Document:
    """Return what PostgreSQL knows; addresses are hidden, for relays quote recipients."""
    failures = await reports.read_last_failures(pool, FAILURES)
    return {
        'outbox': await reports.read_outbox(pool),
        'last_minute': await reports.count_last_minute(pool),
        'hour': await _read_hour(pool),
        'failures': [failure | {'error': hide_addresses(failure['error'])} for failure in failures],
        'switches': as_rows(await read_switches(pool)),
        'paused_due': await reports.read_paused_due(pool),
        'poisoned': await count_poisoned(pool),
        'database': await read_identity(pool),
    }


async def _read_hour(pool: asyncpg.Pool) -> Document:
    """Return what became of attempts, minute by minute, the oldest first."""
    points = (await read_history(pool, WINDOWS['1h'])).points
    return {
        name: [getattr(point.counts, name) for point in points]
        for name in ('sent', 'deferred', 'failed')
    }


def sparkline(values: Sequence[int]) -> str:
    """Return one character for each value, as high as its share of the highest."""
    highest = max(values, default=0) or 1
    return ''.join(HEIGHTS[-(-value * (len(HEIGHTS) - 1) // highest)] for value in values)


def render(document: Document, console: Console) -> None:
    """Print one frame."""
    console.print(frame(Answer(document), console.width))


def frame(given: Answer, width: int) -> RenderableType:
    """Return the screen, of so many columns."""
    document = given.document
    parts: list[RenderableType] = [Text(cell(headline(document)), style='bold')]
    parts += [Text(line) for line in hour_lines(document['hour'] or {})] + [Text()]
    parts += [
        Text(cell(problem.line), style=LEVEL_STYLES[problem.level]) for problem in given.problems
    ]
    if document['switches']:
        parts.append(
            Text('paused: ' + ', '.join(map(_switch, document['switches'])), style='bold yellow')
        )
    if document['workers'] is not None:
        parts += [_workers(document, width), _queues(document, width)]
    if document['failures'] is not None:
        parts.append(_failures(document, width))
    return Group(*parts)


def _workers(document: Document, width: int) -> Table:
    columns = (
        'worker', 'queue', 'state', 'up', 'sending', 'jobs', 'e-mails/s', 'of', 'limit', 'memory',
        'lag',
    )  # fmt: skip
    # What tells least goes first where there is no room.
    spare = ('lag', 'of', 'limit', 'queue', 'memory', 'up', 'jobs')
    return _table(columns, map(_worker, document['workers']), width, spare)


def _queues(document: Document, width: int) -> Table:
    return _table(
        ('queue', 'ready', 'deferred', 'running', 'oldest', 'served'),
        (
            (q['name'], q['ready'], q['deferred'], q['running'], length(q['oldest_ready_s']),
             'yes' if q['served'] else 'no')
            for q in document['queues']
        ),
        width,
    )  # fmt: skip


def _failures(document: Document, width: int) -> Table:
    return _table(
        ('last failures', 'outcome', 'attempt', 'relay', 'phase', 'ago', 'error'),
        (
            (f['email_id'], f['outcome'], f['attempt'], f['relay'], f['phase'],
             length(f['started_s']), f['error'])
            for f in document['failures']
        ),
        width,
        ('phase', 'attempt', 'relay'),
    )  # fmt: skip


def headline(document: Document) -> str:
    """Return the numbers of the whole in one line."""
    parts = [f'{document["at"]:%H:%M:%S} UTC']
    if document['workers'] is not None:
        rate = sum(worker['emails_per_s'] for worker in document['workers'])
        parts.append(f'{counted(len(document["workers"]), "worker")}, {rate:.1f} e-mails/s')
    if document['last_minute'] is not None:
        ended = ', '.join(
            f'{n} {outcome}' for outcome, n in sorted(document['last_minute'].items())
        )
        parts.append(f'last minute: {ended or "nothing"}')
    if (outbox := document['outbox']) is not None:
        numbers = [
            f'{outbox[name]} {name}'
            for name in ('due', 'sending', 'retrying', 'dead', 'held')
            if outbox[name]
        ]
        oldest = f' for {length(outbox["oldest_due_s"])}' if outbox['due'] else ''
        parts.append(f'outbox: {", ".join(numbers) or "empty"}'.replace(' due', f' due{oldest}', 1))
        if (counted_at := counted_when(outbox)) != 'now':
            parts[-1] += f' (counted {counted_at})'
    return ' | '.join(parts)


def hour_lines(hour: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the last hour's minutes, a line for each outcome that there was."""
    return [
        f'{name:<8} {sparkline(values)} {sum(values)} in the last hour, {max(values)} a minute'
        for name, values in hour.items()
        if any(values)
    ]


def _switch(switch: Document) -> str:
    return f'{SWITCH_WORDS[SwitchKind(switch["kind"])]} {cell(switch["name"])}'


def _worker(worker: Document) -> tuple[Any, ...]:
    return (
        worker['worker'], worker['queue'], worker_state(worker), length(worker['uptime_s']),
        worker['sending'], worker['running_jobs'], worker['emails_per_s'],
        worker['concurrency'].get('emails'),
        f'{worker["rate_limit_per_s"]:g}/s' if worker['rate_limit_per_s'] else None,
        megabytes(worker['rss_bytes']),
        f'{worker["loop_lag_ms"]:.0f} ms',
    )  # fmt: skip


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int, spare: Sequence[str] = ()
) -> Table:
    """Return a table, without some of its spare columns where it is too wide."""
    cells = [[cell(value) for value in row] for row in rows]
    wide = {
        name: min(size, LONG) for name, size in zip(columns, widths(columns, cells), strict=True)
    }
    for name in spare:
        if sum(wide.values()) + BETWEEN * (len(wide) - 1) > width:
            del wide[name]
    table = Table(box=None, pad_edge=False, title_justify='left')
    for column in wide:
        table.add_column(column, no_wrap=True, overflow='ellipsis')
    for row in cells:
        named = zip(columns, row, strict=True)
        table.add_row(
            *(Text(value, style_of(name, value)) for name, value in named if name in wide)
        )
    if not table.row_count:
        table.add_row('none', style='dim')
    table.add_row()
    return table
