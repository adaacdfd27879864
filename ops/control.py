"""Change what live workers do: the words of `celery control`; pausing outlives restarts."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from actions.control import WorkerCommand, command_workers
from actions.safety import RequestError
from db.switches import SwitchKind, read_switches
from ops.answer import Answer
from ops.arguments import ListedParsers, add_change, add_json, add_workers, confirm
from ops.connect import Connections
from ops.output import print_table, say
from ops.switching import add_pause, render_switch, render_switches, switch
from reporting.live import Audience
from reporting.overview import as_rows
from reporting.problems import Document
from reporting.wording import SWITCH_WORDS

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
        'stop as by SIGTERM: running mail may finish; systemd starts it again',
        'shutdown', 'Shut down',
    ),
    'concurrency': Word(
        'send N e-mails at once',
        'concurrency', 'Change the concurrency of', ('emails', how_many, 'N'),
    ),
    'pool_grow': Word(
        'send N more e-mails at once', 'grow', 'Raise the concurrency of', ('by', how_many, 'N')
    ),
    'pool_shrink': Word(
        'send N fewer e-mails at once', 'shrink', 'Lower the concurrency of', ('by', how_many, 'N')
    ),
    'rate_limit': Word(
        'begin at most so many e-mails per second and worker: 10, 10/s, 600/m; 0 is no limit',
        'rate_limit', 'Change the rate limit of', ('per_s', per_s, 'RATE'),
    ),
    'log_level': Word(
        'DEBUG, INFO, WARNING or ERROR',
        'log_level', 'Change the log level of', ('level', level, 'LEVEL'),
    ),
    'reload': Word(
        'read relays and routes from .env and their files again',
        'reload_relays', 'Exchange the relays of',
    ),
    'reload_relays': Word(
        'the same, by its older name',
        'reload_relays', 'Exchange the relays of',
    ),
    'stacks': Word('show where every task of a worker waits', 'stacks', '', changes=False),
}  # fmt: skip

# What Celery could do, and arq has no such thing: why, and what to use.
INSTEAD = {
    'autoscale': 'a worker is one process that sends many e-mails at once, '
    'so there is no pool to scale: use `python -m ops control concurrency N`, '
    'or start more workers',
    'add_consumer': 'a worker serves one queue all its life: '
    'start another, `arq worker.HighPriority`',
    'cancel_consumer': 'use `python -m ops control pause --queue NAME`, which outlives restarts',
    'time_limit': 'time limits belong to the phases of SMTP: '
    'set SMTP_COMMAND_TIMEOUT_S, SMTP_REPLY_TIMEOUT_S ..., '
    'then `python -m ops control reload_relays` or a restart',
    'enable_events': 'events need not be enabled: '
    '`python -m ops events` has workers tell them while it listens',
    'disable_events': 'events are told only while `python -m ops events` listens',
    'pool_restart': 'use `python -m ops control shutdown`: systemd starts the worker again',
    'revoke': 'cancel the e-mail, not the job: `python -m ops purge outbox`',
    'terminate': 'an e-mail being sent is never cut off: '
    'use `python -m ops control shutdown`, which drains',
    'heartbeat': 'workers register every 5 seconds by themselves: see `python -m ops status`',
    'election': 'workers elect nobody: PostgreSQL decides who runs a duty, '
    'see `python -m ops cron ls`',
}

# What other commands do.
ELSEWHERE = {'ping': 'use `python -m ops inspect ping`'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    words = parser.add_subparsers(dest='word', required=True, metavar='word')
    for word, verb in (('pause', 'claims nothing more'), ('resume', 'goes on')):
        sub = words.add_parser(
            word,
            help=f'{word} a queue or an e-mail type, over restarts; '
            'without one, live workers until they end',
            description=f'{word.capitalize()} a queue or an e-mail type for all workers, '
            'over restarts. Without --queue and --type: '
            f'each live worker {verb}, until it is restarted.',
        )
        what = sub.add_mutually_exclusive_group()
        what.add_argument('--queue', metavar='NAME')
        what.add_argument('--type', metavar='NAME', help='an email_type')
        what.add_argument('--relay', metavar='NAME', help='as `ops relay`')
        add_workers(sub)
        add_pause(sub)
    add_json(words.add_parser('ls', help='what is paused over restarts'))
    for word, known in WORDS.items():
        sub = words.add_parser(word, help=known.help, description=known.help)
        if known.takes:
            name, read, metavar = known.takes
            sub.add_argument(name, type=read, metavar=metavar)
        add_workers(sub)
        add_json(sub)
        if known.changes:
            add_change(sub)
    shown = dict(words.choices)
    for word, instead in (INSTEAD | ELSEWHERE).items():
        sub = words.add_parser(word, description=instead)  # no help: it is not listed
        add_json(sub)
        sub.add_argument('ignored', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    words.choices = ListedParsers(shown, {*INSTEAD, *ELSEWHERE})


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the word says."""
    word: str = options.word
    if instead := (INSTEAD | ELSEWHERE).get(word):
        raise RequestError(f'there is no {word} here', instead)
    if word == 'ls':
        switches = as_rows(await connections.ask_postgres(read_switches))
        return Answer({'control': 'ls', 'switches': switches})
    audience = Audience(options.workers, options.timeout)
    if known := WORDS.get(word):
        value = getattr(options, known.takes[0]) if known.takes else None
        return await tell_workers(
            connections, word, known, value, audience,
            dry_run=known.changes and options.dry_run, yes=known.changes and options.yes,
        )  # fmt: skip
    names = {
        SwitchKind.QUEUE: options.queue,
        SwitchKind.EMAIL_TYPE: options.type,
        SwitchKind.RELAY: options.relay,
    }
    for kind, name in names.items():
        if name is not None:
            if options.workers:
                what = f'the {SWITCH_WORDS[kind]} {name} is paused and resumed for all workers'
                raise RequestError(what, 'leave out --worker')
            return await switch(
                connections, word, kind, name, reason=options.reason, force=options.force,
                dry_run=options.dry_run, yes=options.yes,
            )  # fmt: skip
    here = Word('', word, word.capitalize())
    return await tell_workers(
        connections, word, here, None, audience, dry_run=options.dry_run, yes=options.yes
    )


async def tell_workers(
    connections: Connections,
    name: str,
    word: Word,
    value: Any,
    audience: Audience,
    *,
    dry_run: bool,
    yes: bool,
) -> Answer:
    """Send a word to live workers of our database, and show what each did."""

    def ask(workers: Sequence[str]) -> None:
        confirm(f'{word.question} {", ".join(workers)}?', yes=yes)

    arguments = {word.takes[0]: value} if word.takes else {}
    command = WorkerCommand(word.command, arguments, word.changes)
    done = await command_workers(connections, command, audience, dry_run=dry_run, confirm=ask)
    return Answer(
        {
            'control': name,
            'dry_run': done.dry_run,
            'workers': done.workers,
            'done': done.done,
        },
        done.problems,
    )


def render(document: Document, console: Console) -> None:
    """Print what was done."""
    if 'switch' in document:
        render_switch(document, console)
    elif document['control'] == 'ls':
        render_switches(document['switches'], console)
    elif document['dry_run']:
        names = ', '.join(document['workers']) or 'nobody'
        say(console, f'Would tell {document["control"]} to {names}; nothing was changed.')
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
    'reload': 'relays',
    'reload_relays': 'relays',
}


def _row(done: Document) -> tuple[str, str]:
    match done:
        case {'emails': emails, 'before': before}:
            what = f'{before} -> {emails}'
        case {'per_s': int() | float() as limit, 'before': int() | float() as before}:
            what = f'{_rate(before)} -> {_rate(limit)}'
        case {'level': level}:
            what = str(level)
        case {'relays': dict(relays)}:
            changed = done.get('changed') or ()
            what = ', '.join(
                f'{name} {place}{" (new)" if name in changed else ""}'
                for name, place in relays.items()
            )
        case {'stopping': _, 'sending': sending}:
            what = f'stopping, {sending} e-mail{"" if sending == 1 else "s"} under way may finish'
        case {'paused': list(reasons)}:
            what = '; '.join(map(str, reasons)) or 'running'
        case _:
            what = 'done'
    return done['worker'], what


def _rate(per_second: float) -> str:
    return f'{per_second:g}' if per_second else 'no limit'
