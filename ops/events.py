"""What happens, as it happens: claims, outcomes, workers that come and go."""

import argparse
import contextlib
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from logs import hide_recipients
from ops.answer import Answer
from ops.arguments import add_json, count, duration_s
from ops.connect import Connections
from reporting.events import Event, EventWatch
from reporting.live import read_database
from reporting.problems import NOBODY_REPLIED, Document
from reporting.wording import as_json as encode
from reporting.wording import cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('--count', type=count, metavar='N', help='end after so many events')
    parser.add_argument(
        '--for', type=duration_s, dest='for_s', metavar='TIME', help='end after 30s, 5m ...'
    )
    parser.add_argument('--failures', action='store_true', help='only what was not accepted')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Listen until it is ended. Who was not listening reads `ops failed` and `ops show`."""
    printing = partial(
        print_events,
        database=await read_database(connections),
        for_s=options.for_s,
        most=options.count,
        failures_only=options.failures,
        as_json=options.json,
    )
    heard = await connections.ask_redis(printing)
    return Answer({'events': heard}, [] if heard is not None else [NOBODY_REPLIED], streamed=True)


async def print_events(
    redis: ArqRedis,
    *,
    database: str | None,
    for_s: float | None,
    most: int | None,
    failures_only: bool,
    as_json: bool,
) -> int | None:
    """Print events of our database's workers.

    Returns:
        How many; None when there was no worker all the time.
    """
    printed = 0

    def wait_for_worker() -> None:
        if not printed:
            print('ops events: no worker yet, waiting for one', file=sys.stderr)

    watch = EventWatch(redis, database, wait_for_worker)
    async with contextlib.aclosing(watch.batches(for_s)) as batches:
        async for batch in batches:
            for event in batch:
                if failures_only and event.get('event') in ('claimed', 'accepted'):
                    continue
                _print(event, as_json=as_json)
                printed += 1
                if printed == most:
                    return printed
    return printed if watch.has_seen_worker else None


def _print(event: Event, *, as_json: bool) -> None:
    # Relays quote recipients in their replies; the workers' log does not show them either.
    shown = dict(hide_recipients(None, 'info', dict(event)))
    if as_json:
        if at := _time(shown.get('at')):
            shown['at'] = at.isoformat(timespec='milliseconds')
        line = encode(shown, indent=None)
    else:
        line = as_line(shown)
    sys.stdout.write(line + '\n')
    sys.stdout.flush()


def _time(at: Any) -> datetime | None:
    """Return when an event happened; None when whoever published it wrote something else."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else None
    return None


def as_line(event: Event) -> str:
    """Return an event for people."""
    at = _time(event.get('at'))
    when = at.strftime('%H:%M:%S.%f')[:-3] if at else '-'
    parts = [when, f'{cell(event.get("event")):<14}', cell(event.get('worker'))]
    if 'email_id' in event:
        parts += [f'e-mail {cell(event["email_id"])}', f'attempt {cell(event.get("attempt"))}']
    for name in ('type', 'relay'):
        if event.get(name):
            parts.append(cell(event[name]))
    if 'duration_ms' in event:
        parts.append(f'{cell(event["duration_ms"])} ms')
    if event.get('event') != 'accepted' and (why := event.get('error') or event.get('reply')):
        parts.append(cell(why))
    if 'count' in event:
        parts.append(f'too many events to tell: {cell(event["count"])}')
    return '  '.join(parts)


def render(document: Document, console: Console) -> None:
    """Print nothing: it was printed as it happened."""
