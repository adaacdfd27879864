"""The duties that celery beat had: what runs when, what ran last, run one now, pause one."""

import argparse
from typing import Any

import asyncpg
from rich.console import Console

from actions.call import run_duty
from db import reports
from db.switches import SwitchKind, read_switches
from fleet.registry import WorkerRecord
from ops import call
from ops.answer import Answer
from ops.arguments import add_change, add_json, duration_s
from ops.connect import Connections
from ops.output import print_table
from ops.switching import add_pause, render_switch, switch
from reporting.live import read_living
from reporting.overview import as_rows
from reporting.problems import NOBODY_REPLIED, Document, Problem
from reporting.servers import answer_or_note
from reporting.wording import because, fault, length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    words = parser.add_subparsers(dest='word', required=True, metavar='ls|run|pause|resume')
    add_json(words.add_parser('ls', help='duties, their last and next runs'))
    running = words.add_parser('run', help='run a duty now, besides its slots')
    running.add_argument('name', metavar='DUTY')
    running.add_argument(
        '--wait',
        type=duration_s,
        nargs='?',
        const=call.WAIT_S,
        metavar='TIME',
        help='for the result; 60s if not said',
    )
    add_change(running)
    add_json(running)
    for word in ('pause', 'resume'):
        sub = words.add_parser(word, help=f'{word} a duty for all workers, over restarts')
        sub.add_argument('name', metavar='DUTY')
        add_pause(sub)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """List them, run one, or switch one."""
    if options.word == 'ls':
        return await list_duties(connections)
    if options.word == 'run':
        ask = call.asking((), yes=options.yes)
        called = await run_duty(
            connections, options.name, wait_s=options.wait, dry_run=options.dry_run, confirm=ask
        )
        return call.called_answer(called)
    return await switch(
        connections, options.word, SwitchKind.CRON, options.name, reason=options.reason,
        force=options.force, dry_run=options.dry_run, yes=options.yes,
    )  # fmt: skip


async def list_duties(connections: Connections) -> Answer:
    """Join what the workers have in their tables with what ran, and with what is paused."""
    problems: list[Problem] = []
    workers = await answer_or_note(connections.ask_redis(read_living), problems)
    stored = await answer_or_note(connections.ask_postgres(_read_stored), problems)
    if stored is None:
        return Answer({}, problems)
    runs, switches, clock = stored
    paused = {s['name']: s for s in switches}
    tables = tables_of(workers or [])
    duties = [
        {'duty': name, **tables.get(name, {'every_s': None, 'missed': None}),
         'last': runs.get(name), 'next_in_s': next_in_s(clock, tables.get(name)),
         'paused': paused.get(name)}
        for name in sorted({*tables, *runs, *paused})
    ]  # fmt: skip
    if workers == []:
        problems.append(NOBODY_REPLIED)  # then nobody runs them, nor tells when they would run
    return Answer({'duties': duties}, problems + duty_problems(duties))


async def _read_stored(pool: asyncpg.Pool) -> tuple[dict[str, Document], list[Document], float]:
    switches = [s for s in await read_switches(pool) if s.kind is SwitchKind.CRON]
    clock: float = await pool.fetchval('SELECT EXTRACT(EPOCH FROM now())::float8')
    return (
        {duty['duty']: duty for duty in await reports.read_duties(pool)},
        as_rows(switches),
        clock,
    )


def tables_of(workers: list[WorkerRecord]) -> dict[str, Document]:
    """Return the schedules that the workers tell, by duty."""
    return {
        str(duty.get('name')): {'every_s': duty.get('every_s'), 'missed': duty.get('missed')}
        for worker in workers
        for duty in worker.duties
    }


def next_in_s(clock_s: float, table: dict[str, Any] | None) -> float | None:
    """Return how long until a duty's next slot, by the database's clock.

    None when no worker reports how often it runs.
    """
    every_s = table['every_s'] if table else None
    return every_s - clock_s % every_s if isinstance(every_s, int) and every_s > 0 else None


def duty_problems(duties: list[Document]) -> list[Problem]:
    """Name the duties whose last run failed."""
    return [
        Problem(
            f'{duty["duty"]} failed{because(fault(duty["last"]["detail"]))}',
            "see `duty.failed` in the worker's log",
        )
        for duty in duties
        if duty['last'] and duty['last']['outcome'] == 'error'
    ]


def render(document: Document, console: Console) -> None:
    """Print the table, or what was done."""
    if 'switch' in document:
        render_switch(document, console)
    elif 'function' in document:
        call.render(document, console)
    else:
        print_table(
            console,
            'Duties',
            (
                'duty',
                'every',
                'a missed run',
                'next in',
                'last slot',
                'outcome',
                'affected',
                'worker',
                'paused',
            ),
            (_row(duty) for duty in document['duties']),
        )


def every(seconds: float | None) -> str:
    """Return how often: in the largest unit that fits, 1 day, 1 h, 5 min, or as any length."""
    for unit, size_s in (('day', 86400), ('h', 3600), ('min', 60)):
        if seconds and seconds % size_s == 0:
            count = int(seconds // size_s)
            return f'{count} {unit}{"s" if unit == "day" and count > 1 else ""}'
    return length(seconds)


def _row(duty: Document) -> tuple[Any, ...]:
    last = duty['last'] or dict.fromkeys(('slot', 'outcome', 'affected', 'worker'))
    paused = duty['paused']
    why = (
        f'by {paused["paused_by"]}' + (f': {paused["reason"]}' if paused['reason'] else '')
        if paused
        else None
    )
    return (
        duty['duty'], every(duty['every_s']),
        {'once': 'is made up for', 'skip': 'is skipped'}.get(duty['missed']),
        'paused' if paused else length(duty['next_in_s']), last['slot'], last['outcome'],
        last['affected'], last['worker'], why,
    )  # fmt: skip
