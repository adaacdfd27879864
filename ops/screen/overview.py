"""The first page of the screen: what needs a person, how it goes, and who does what."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from db.switches import SwitchKind
from ops.fleet_tables import worker_state
from ops.output import LEVEL_STYLES
from ops.parser import as_typed
from ops.screen.lines import (
    ScreenLine,
    ScreenTarget,
    plain_line,
    sparkline,
    table_lines,
    wrapped_lines,
)
from ops.screen.look import OUTCOMES, FleetLook, is_paused
from reporting.problems import Document, Level
from reporting.wording import SWITCH_WORDS, cell, counted, counted_when, length, megabytes

MOST_PROBLEMS = 4
WIDE = 120  # columns in which numbers have whole sentences
STYLES = {'sent': 'green', 'deferred': 'yellow', 'failed': 'bold red'}


def head_lines(
    look: FleetLook, width: int, most_problems: int = MOST_PROBLEMS, *, with_problems: bool = True
) -> list[ScreenLine]:
    """Return what is always seen: the whole in numbers, what is old, what needs a person, rates."""
    document = look.document
    lines = [plain_line(part, 'bold') for part in headline(document, width)]
    lines += [plain_line(text, 'bold red') for text in stale_texts(look, datetime.now(UTC))]
    shown = look.problems[:most_problems] if with_problems else []
    for problem in shown:
        whole = as_typed(problem.line)
        where = f'{problem.service} at {problem.place}: ' if problem.service else ''
        told = whole if len(whole) <= width else f'{where}{problem.what}'
        lines.append(plain_line(told, LEVEL_STYLES[problem.level]))
    more = len(look.problems) - len(shown)
    if more and with_problems:
        lines.append(plain_line(f'and {more} more; w tells all, and what to do', 'yellow'))
    if not look.problems and with_problems:
        lines.append(plain_line('Nothing needs you.', LEVEL_STYLES[Level.OK]))
    if document['switches']:
        names = ', '.join(map(_switch, document['switches']))
        lines.append(plain_line(f'paused: {names}', 'yellow'))
    lines += rate_lines(document, width)
    return lines


def problem_lines(look: FleetLook, width: int) -> Iterator[ScreenLine]:
    """Yield all that is wrong, whole, with what to do."""
    for problem in look.problems:
        yield from wrapped_lines(problem.line, width, LEVEL_STYLES[problem.level])
        yield ScreenLine()
    if not look.problems:
        yield plain_line('Nothing is wrong.', LEVEL_STYLES[Level.OK])


def stale_texts(look: FleetLook, now: datetime) -> list[str]:
    """Say of which servers what is shown is of before."""
    shown = {'Redis': 'workers and queues', 'PostgreSQL': 'mail, rates and pauses'}
    return [
        f'{server} has not answered since {at:%H:%M:%S} UTC '
        f'({length((now - at).total_seconds())}): {shown[server]} are of then'
        for server, at in look.since.items()
    ]


def headline(document: Document, width: int = 500) -> list[str]:
    """Return the numbers of the whole: in one line, or in two where one is too narrow."""
    parts = [f'{document["at"]:%H:%M:%S} UTC']
    if document['workers'] is not None:
        rate = sum(worker['emails_per_s'] for worker in document['workers'])
        parts.append(f'{counted(len(document["workers"]), "worker")}, {rate:.1f} e-mails/s')
    if document['last_minute'] is not None:
        ended = ', '.join(
            f'{n} {outcome}' for outcome, n in sorted(document['last_minute'].items())
        )
        parts.append(f'last minute: {ended or "nothing"}')
    outbox = _outbox(document['outbox']) if document['outbox'] is not None else []
    whole = ' | '.join([*parts, *outbox])
    return [whole] if len(whole) <= width else [' | '.join(parts), *outbox]


def _outbox(outbox: Mapping[str, Any]) -> list[str]:
    numbers = [
        f'{outbox[name]} {name}'
        for name in ('due', 'sending', 'retrying', 'dead', 'held')
        if outbox[name]
    ]
    oldest = f' for {length(outbox["oldest_due_s"])}' if outbox['due'] else ''
    told = f'outbox: {", ".join(numbers) or "empty"}'.replace(' due', f' due{oldest}', 1)
    when = counted_when(outbox)
    return [told if when == 'now' else f'{told} (counted {when})']


def rate_lines(document: Document, width: int) -> list[ScreenLine]:
    """Return the last hour's minutes, a line for each outcome that there was, and latencies."""
    lines = []
    for name in OUTCOMES:
        values: Sequence[int] = (document['hour'] or {}).get(name, ())
        if any(values):
            numbers = f' {sum(values)}/h'
            if width >= WIDE:
                numbers = f' {sum(values)} in the last hour, {max(values)} a minute at most'
            room = max(width - len(numbers) - 10, 10)
            line = plain_line(f'{name:<8} ', STYLES[name])
            line.text.append(sparkline(values[-room:]), STYLES[name])
            line.text.append(numbers)
            lines.append(line)
    if latency := document['latency']:
        told = ', '.join(f'p{p} {_seconds(latency[f"p{p}_s"])}' for p in (50, 95, 99))
        lines.append(plain_line(f'queued to accepted: {told}'))
    return lines


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f'{seconds * 1000:.0f} ms'
    return f'{seconds:.1f} s' if seconds < 100 else length(seconds)


def _switch(switch: Document) -> str:
    return f'{SWITCH_WORDS[SwitchKind(switch["kind"])]} {cell(switch["name"])}'


def body_lines(look: FleetLook, width: int) -> Iterator[ScreenLine]:
    """Yield what can be opened: workers, queues, types, relays, failures."""
    document = look.document
    sections = (_workers, _queues, _types, _relays, _failures)
    for number, section in enumerate(sections):
        if number:
            yield ScreenLine()
        yield from section(document, width)


def _unknown(title: str) -> list[ScreenLine]:
    return [plain_line(f'{title}: unknown', 'dim')]


def _workers(document: Document, width: int) -> list[ScreenLine]:
    if document['workers'] is None:
        return _unknown('worker')
    return table_lines(
        'worker',
        ('queue', 'state', 'up', 'sending', 'jobs', 'e-mails/s', 'of', 'limit', 'memory', 'lag'),
        ((ScreenTarget('worker', w['worker']), _worker(w)) for w in document['workers']),
        width,
        spare=('lag', 'of', 'limit', 'queue', 'memory', 'up', 'jobs'),
    )


def _worker(worker: Document) -> tuple[Any, ...]:
    return (
        worker['worker'], worker['queue'], worker_state(worker), length(worker['uptime_s']),
        worker['sending'], worker['running_jobs'], worker['emails_per_s'],
        worker['concurrency'].get('emails'),
        f'{worker["rate_limit_per_s"]:g}/s' if worker['rate_limit_per_s'] else None,
        megabytes(worker['rss_bytes']), f'{worker["loop_lag_ms"]:.0f} ms',
    )  # fmt: skip


def _queues(document: Document, width: int) -> list[ScreenLine]:
    if document['queues'] is None:
        return _unknown('queue')
    return table_lines(
        'queue',
        ('ready', 'deferred', 'running', 'oldest', 'served', 'state'),
        (
            (ScreenTarget('queue', q['name']),
             (q['name'], q['ready'], q['deferred'], q['running'], length(q['oldest_ready_s']),
              'yes' if q['served'] else 'no', _state(document, SwitchKind.QUEUE, q['name'])))
            for q in document['queues']
        ),
        width,
    )  # fmt: skip


def _state(document: Document, kind: SwitchKind, name: str) -> str:
    return 'paused' if is_paused(document, kind, name) else ''


def _types(document: Document, width: int) -> list[ScreenLine]:
    return _counted(document, 'type', document['types'], SwitchKind.EMAIL_TYPE, width)


def _relays(document: Document, width: int) -> list[ScreenLine]:
    return _counted(document, 'relay', document['relays'], SwitchKind.RELAY, width)


def _counted(
    document: Document,
    title: str,
    counts: Sequence[Document] | None,
    kind: SwitchKind,
    width: int,
) -> list[ScreenLine]:
    """Return who had attempts within the hour, and what is paused though it had none."""
    if counts is None:
        return _unknown(title)
    none = dict.fromkeys(OUTCOMES, 0)
    known = {row['name']: row for row in counts}
    paused = [s['name'] for s in document['switches'] or () if s['kind'] == kind]
    known |= {name: none for name in paused if name not in known}
    return table_lines(
        title,
        (*OUTCOMES, 'state'),
        (
            (ScreenTarget(title, name),
             (name, *(row[outcome] for outcome in OUTCOMES), _state(document, kind, name)))
            for name, row in known.items()
        ),
        width,
        empty='no attempt within the hour',
    )  # fmt: skip


def _failures(document: Document, width: int) -> list[ScreenLine]:
    if document['failures'] is None:
        return _unknown('last failures')
    return table_lines(
        'last failures',
        ('outcome', 'attempt', 'relay', 'phase', 'ago', 'error'),
        (
            (ScreenTarget('mail', str(f['email_id'])),
             (f['email_id'], f['outcome'], f['attempt'], f['relay'], f['phase'],
              length(f['started_s']), f['error']))
            for f in document['failures']
        ),
        width,
        spare=('phase', 'attempt', 'relay'),
        empty='none within ten minutes; `ops failed` lists older ones',
    )  # fmt: skip
