"""What happens, as it happens: claims, outcomes, workers that come and go."""

import argparse
import contextlib
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from db.identity import is_other
from delivery.events import SUBSCRIBED_S
from fleet import events
from fleet.channel import ask
from fleet.registry import read_workers
from logs import hide_recipients
from ops.answer import NOBODY_REPLIED, Answer, Document
from ops.arguments import add_json, count, duration_s
from ops.asking import read_database
from ops.connect import Connections
from ops.output import as_json as encode
from ops.output import cell

HELP = 'claims and outcomes as they happen; --json prints one JSON object a line'

ASK_EVERY_S = SUBSCRIBED_S / 2
LOOK_EVERY_S = 2.0  # for workers that come and go
POLL_S = 0.2

Event = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('--count', type=count, metavar='N', help='end after so many events')
    parser.add_argument(
        '--for', type=duration_s, dest='for_s', metavar='TIME', help='end after 30s, 5m ...'
    )
    parser.add_argument('--failures', action='store_true', help='only what was not accepted')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Listen until told to end. Nothing is stored: who was not listening reads `ops failed` and `ops show`."""
    database = await read_database(connections)
    heard = await connections.ask_redis(partial(listen, options=options, database=database))
    return Answer({'events': heard}, [] if heard is not None else [NOBODY_REPLIED], streamed=True)


async def listen(
    redis: ArqRedis, options: argparse.Namespace, database: str | None = None
) -> int | None:
    """Print events of our database's workers. Returns how many; None when there is no worker all the time."""
    ends_at = time.monotonic() + options.for_s if options.for_s else None
    told, known, look_at, ask_at = 0, await _own_workers(redis, database), 0.0, 0.0
    seen_any = bool(known)
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(events.channel(redis))
        while ends_at is None or time.monotonic() < ends_at:
            batch: list[Event] = []
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_EVERY_S
                seen_any |= (await ask(redis, 'events', timeout_s=1.0)).heard > 0
                if not seen_any and not told:
                    print('ops events: no worker yet, waiting for one', file=sys.stderr)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_EVERY_S
                now = await _own_workers(redis, database)
                batch += [_of_worker(name, 'worker-online') for name in sorted(now - known)]
                batch += [_of_worker(name, 'worker-offline') for name in sorted(known - now)]
                ask_at, known = (0.0 if now - known else ask_at), now
            message = await pubsub.get_message(timeout=POLL_S)
            if message is not None:
                told_by_all = events.read_events(message['data'])
                batch += [
                    e for e in told_by_all if not is_other(str(e.pop('database', '')), database)
                ]
            for event in batch:
                if options.failures and event.get('event') in ('claimed', 'accepted'):
                    continue
                _print(event, as_json=options.json)
                told += 1
                if told == options.count:
                    return told
    return told if seen_any else None


async def _own_workers(redis: ArqRedis, database: str | None) -> set[str]:
    return {r.worker for r in await read_workers(redis) if not is_other(r.database, database)}


def _of_worker(worker: str, kind: str) -> Event:
    return {'worker': worker, 'event': kind, 'at': time.time()}


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
