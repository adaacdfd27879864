"""Change what live workers do: the words of `celery control`, and pausing that outlives restarts."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from db.identity import are_mixed, is_other
from db.switches import Kind, read_switches
from fleet.channel import choose
from fleet.registry import WorkerRecord
from ops.answer import NO_WORKER, NOBODY_REPLIED, USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import Choices, add_change, add_json, confirmed
from ops.asking import add_workers, ask_workers, no_such_worker, read_database
from ops.connect import Connections
from ops.live import ask_living, read_living
from ops.output import print_table, say
from ops.switching import WORDS as KINDS
from ops.switching import add_pause, render_switch, render_switches, switch
from reporting.overview import as_rows

HELP = 'pause, resume, shutdown, pool_grow, rate_limit, log_level, reload_relays, stacks ...'

LOG_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR')
PER_S = {'s': 1, 'm': 60, 'h': 3600}


def how_many(text: str) -> int:
    """Read a number of e-mails at once."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 to 1000')
    return int(text)


def per_s(text: str) -> float:
    """Read 10, 10/s, 600/m or 36000/h; 0 is no limit."""
    number, _, unit = text.partition('/')
    try:
        rate = float(number) / PER_S[unit or 's']
    except (ValueError, KeyError):
        rate = -1.0
    if not 0 <= rate <= 1_000_000:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no rate such as 10/s, 600/m or 36000/h; 0 is no limit'
        )
    return rate


def level(text: str) -> str:
    """Read the name of a log level."""
    if text.upper() not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f'{text!r} is none of {", ".join(LOG_LEVELS)}')
    return text.upper()


@dataclass(frozen=True, slots=True)
class Word:
    """One word that goes to live workers."""

    help: str
    command: str
    question: str  # what it does, to be asked with the workers' names
    takes: tuple[str, Callable[[str], Any], str] | None = (
        None  # the argument's name, its reader, its name for people
    )
    changes: bool = True


WORDS: Mapping[str, Word] = {
    'shutdown': Word(
        'stop as by SIGTERM: running mail may finish; systemd starts it again', 'shutdown', 'Shut down'
    ),
    'concurrency': Word(
        'send N e-mails at once', 'concurrency', 'Change the concurrency of', ('emails', how_many, 'N')
    ),
    'pool_grow': Word('send N more e-mails at once', 'grow', 'Raise the concurrency of', ('by', how_many, 'N')),
    'pool_shrink': Word('send N fewer e-mails at once', 'shrink', 'Lower the concurrency of', ('by', how_many, 'N')),
    'rate_limit': Word(
        'begin at most so many e-mails per second and worker: 10, 10/s, 600/m; 0 is no limit',
        'rate_limit', 'Change the rate limit of', ('per_s', per_s, 'RATE'),
    ),
    'log_level': Word(
        'DEBUG, INFO, WARNING or ERROR', 'log_level', 'Change the log level of', ('level', level, 'LEVEL')
    ),
    'reload_relays': Word(
        'read the SMTP settings from .env and secret files again', 'reload_relays', 'Exchange the relays of'
    ),
    'stacks': Word('show where every task of a worker waits', 'stacks', '', changes=False),
}  # fmt: skip

# What Celery could do, and arq has no such thing: why, and what to use.
INSTEAD = {
    'autoscale': 'a worker is one process that sends many e-mails at once, so there is no pool to scale: '
    'use `python -m ops control concurrency N`, or start more workers',
    'add_consumer': 'a worker serves one queue all its life: start another, `arq worker.HighPriority`',
    'cancel_consumer': 'use `python -m ops control pause --queue NAME`, which outlives restarts',
    'time_limit': 'time limits belong to the phases of SMTP: set SMTP_COMMAND_TIMEOUT_S, SMTP_REPLY_TIMEOUT_S ..., '
    'then `python -m ops control reload_relays` or a restart',
    'enable_events': 'events need not be enabled: `python -m ops events` has workers tell them while it listens',
    'disable_events': 'events are told only while `python -m ops events` listens',
    'pool_restart': 'use `python -m ops control shutdown`: systemd starts the worker again',
    'revoke': 'cancel the e-mail, not the job: `python -m ops purge outbox`',
    'terminate': 'an e-mail being sent is never cut off: use `python -m ops control shutdown`, which drains',
    'heartbeat': 'workers register every 5 seconds by themselves: see `python -m ops status`',
    'election': 'workers elect nobody: PostgreSQL decides who runs a duty, see `python -m ops cron ls`',
}

# What other commands do.
ELSEWHERE = {'ping': 'use `python -m ops inspect ping`'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    words = parser.add_subparsers(dest='word', required=True, metavar='word')
    for word, verb in (('pause', 'claims nothing more'), ('resume', 'goes on')):
        sub = words.add_parser(
            word,
            help=f'{word} a queue or an e-mail type, over restarts; without one, live workers until they end',
            description=f'{word.capitalize()} a queue or an e-mail type for all workers, over restarts. '
            f'Without --queue and --type: each live worker {verb}, until it is restarted.',
        )
        what = sub.add_mutually_exclusive_group()
        what.add_argument('--queue', metavar='NAME')
        what.add_argument('--type', metavar='NAME', help='an email_type')
        what.add_argument('--relay', metavar='NAME', help='as `ops relay`')
        add_workers(sub)
        add_pause(sub)
    add_json(words.add_parser('ls', help='what is paused over restarts'))
    for word, told in WORDS.items():
        sub = words.add_parser(word, help=told.help, description=told.help)
        if told.takes:
            name, read, metavar = told.takes
            sub.add_argument(name, type=read, metavar=metavar)
        add_workers(sub)
        add_json(sub)
        if told.changes:
            add_change(sub)
    shown = tuple(words.choices)
    for word, instead in (INSTEAD | ELSEWHERE).items():
        sub = words.add_parser(word, description=instead)  # no help: it is not listed
        add_json(sub)
        sub.add_argument('ignored', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    words.choices = Choices(shown, {*INSTEAD, *ELSEWHERE})  # type: ignore[assignment]


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the word says."""
    word: str = options.word
    if instead := (INSTEAD | ELSEWHERE).get(word):
        raise TroubleError(Trouble(f'there is no {word} here', instead, exit_status=USAGE))
    if word == 'ls':
        return Answer(
            {'control': 'ls', 'switches': as_rows(await connections.ask_postgres(read_switches))}
        )
    if word in WORDS:
        return await tell(connections, options, WORDS[word])
    for kind, name in (
        (Kind.QUEUE, options.queue), (Kind.EMAIL_TYPE, options.type), (Kind.RELAY, options.relay)
    ):  # fmt: skip
        if name is not None:
            if options.workers:
                what = f'the {KINDS[kind]} {name} is paused and resumed for all workers'
                raise TroubleError(Trouble(what, 'leave out --worker', exit_status=USAGE))
            return await switch(connections, options, kind, name, word)
    return await tell(connections, options, Word('', word, word.capitalize()))


async def tell(connections: Connections, options: argparse.Namespace, word: Word) -> Answer:
    """Send a word to live workers of our database, and show what each did."""
    database = await read_database(connections)
    living = await connections.ask_redis(partial(find_workers, patterns=options.workers))
    if word.changes and database is None and are_mixed(record.database for record in living):
        raise TroubleError(
            Trouble(
                'workers of several PostgreSQL databases are here, and ours does not answer', START
            )
        )
    ours = [record.worker for record in living if not is_other(record.database, database)]
    names = (
        ours
        if options.workers is None
        else [name for name in choose(options.workers, ours) if name in ours]
    )
    document: Document = {
        'control': options.word, 'dry_run': word.changes and options.dry_run, 'workers': names, 'done': []
    }  # fmt: skip
    if not names:
        foreign = [record.worker for record in living if record.worker not in ours]
        if set(choose(options.workers or ['*'], foreign)) & set(foreign):
            return Answer(document, [not_ours(foreign)])
        return Answer(document, [no_such_worker(ours) if ours else NOBODY_REPLIED])
    if document['dry_run']:
        return Answer(document)
    if word.changes and not confirmed(options, f'{word.question} {", ".join(names)}?'):
        raise TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))
    arguments = {word.takes[0]: getattr(options, word.takes[0])} if word.takes else {}
    answers = await ask_workers(connections, options, word.command, arguments, database)
    return Answer(document | {'done': answers.done}, answers.troubles())


START = 'start PostgreSQL, or correct DATABASE_URL: then it is known whose workers are whose'


def not_ours(names: list[str]) -> Trouble:
    """Say that workers are of another application."""
    what = f'{", ".join(names)}: of another PostgreSQL database, and told nothing'
    return Trouble(
        what, 'give the command with the settings of that application', exit_status=NO_WORKER
    )


async def find_workers(redis: ArqRedis, patterns: list[str] | None) -> list[WorkerRecord]:
    """Return the workers that are there; when one that is meant is not registered, as they reply."""
    living = await read_living(redis)
    known = [record.worker for record in living]
    if patterns is not None and not set(choose(patterns, known)) <= set(
        known
    ):  # perhaps not yet again
        return await ask_living(redis)
    return living


def render(document: Document, console: Console) -> None:
    """Print what was done."""
    if 'switch' in document:
        render_switch(document, console)
    elif document['control'] == 'ls':
        render_switches(document['switches'], console)
    elif document['dry_run']:
        told = ', '.join(document['workers']) or 'nobody'
        say(console, f'Would tell {document["control"]} to {told}; nothing was changed.')
    elif document['control'] == 'stacks':
        for worker in document['done']:
            say(console, f'{worker["worker"]}\n', style='bold')
            say(console, str(worker.get('stacks')), soft_wrap=True)
    elif document['done']:
        columns = ('worker', TITLES.get(document['control'], 'state'))
        print_table(
            console, f'Workers told: {len(document["done"])}', columns, map(_row, document['done'])
        )


TITLES = {  # what the second column says
    'concurrency': 'e-mails at once, until restarted',
    'pool_grow': 'e-mails at once, until restarted',
    'pool_shrink': 'e-mails at once, until restarted',
    'rate_limit': 'e-mails per second, until restarted',
    'log_level': 'log level, until restarted',
    'reload_relays': 'relays',
}


def _row(done: Document) -> tuple[str, str]:
    match done:
        case {'emails': emails, 'before': before}:
            told = f'{before} -> {emails}'
        case {'per_s': int() | float() as limit, 'before': int() | float() as before}:
            told = f'{_rate(before)} -> {_rate(limit)}'
        case {'level': level}:
            told = str(level)
        case {'relays': dict(relays)}:
            told = ', '.join(f'{name} {place}' for name, place in relays.items())
        case {'stopping': _, 'sending': sending}:
            told = f'stopping, {sending} e-mail{"" if sending == 1 else "s"} under way may finish'
        case {'paused': list(reasons)}:
            told = '; '.join(map(str, reasons)) or 'running'
        case _:
            told = 'done'
    return done['worker'], told


def _rate(per_second: float) -> str:
    return f'{per_second:g}' if per_second else 'no limit'
