"""`python -m ops <command>`: what the `celery` command, redis-cli and SQL did.

Exit status: 0 fine, 1 a problem was found, 2 usage, 69 no worker replied. The answer goes to
stdout, problems to stderr.
"""

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console

from logs import configure_logs, visible
from ops import (
    audit,
    call,
    control,
    cron,
    doctor,
    events,
    explain,
    failed,
    held,
    inspect,
    purge,
    qshape,
    queue,
    relay,
    resolve,
    result,
    retry,
    schedule,
    sender,
    show,
    status,
    suppress,
    token,
    top,
)
from ops.answer import Answer
from ops.arguments import command_name
from ops.celery import command as import_celery
from ops.changes import has_changed, note_change
from ops.connect import Connections
from ops.output import make_console
from ops.token import this_person
from reporting.problems import Document, ProblemError
from reporting.wording import as_json
from settings import Settings, load_settings


class CommandModule(Protocol):
    """What each command's module has."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the command's options."""

    async def run(self, connections: Connections, options: argparse.Namespace, /) -> Answer:
        """Do it."""

    def render(self, document: Document, console: Console, /) -> None:
        """Print a document that run returned."""


COMMANDS: Mapping[str, CommandModule] = {
    'status': status,
    'doctor': doctor,
    'top': top,
    'events': events,
    'inspect': inspect,
    'control': control,
    'relay': relay,
    'cron': cron,
    'queue': queue,
    'qshape': qshape,
    'failed': failed,
    'held': held,
    'show': show,
    'explain': explain,
    'retry': retry,
    'schedule': schedule,
    'call': call,
    'result': result,
    'resolve': resolve,
    'purge': purge,
    'suppress': suppress,
    'sender': sender,
    'token': token,
    'audit': audit,
    'import-celery': import_celery,
}


AUDITED_BY_THEMSELVES = ('token',)  # before they change anything


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=command_name('python -m ops'),
        description="The operators' commands.",
        epilog='Exit status: 0 fine, 1 trouble found, 2 usage, 69 no worker replied.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='command')
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(name, help=command.HELP, description=command.HELP)
        )
    return parser


async def answer(settings: Settings, command: CommandModule, options: argparse.Namespace) -> Answer:
    """Run a command on its own connections."""
    connections = Connections(settings)
    try:
        given = await command.run(connections, options)
        if has_changed(options, given) and options.command not in AUDITED_BY_THEMSELVES:
            await note_change(connections, options, given, this_person())
    except ProblemError as error:
        return Answer({}, [error.problem])
    else:
        return given
    finally:
        await connections.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print. Returns the exit status."""
    options = make_parser().parse_args(arguments)
    command = COMMANDS[options.command]
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    given = asyncio.run(answer(settings, command, options))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    if given.streamed:
        pass
    elif options.json:
        print(
            as_json(
                given.document | {'troubles': [problem.as_document() for problem in given.problems]}
            )
        )
    elif given.document:
        command.render(given.document, make_console())
    sys.stdout.flush()
    for problem in given.problems:
        print(f'ops {options.command}: {visible(problem.line)}', file=sys.stderr)
    return given.exit_status


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command whoever reads it. Returns the exit status, also when he has stopped reading.

    130 and 141 are what a shell says of programs that SIGINT and SIGPIPE have ended.
    """
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed before we began: `ops status >&-`
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115, PTH123 - until the end
    try:
        try:
            return main(arguments)
        finally:  # also after --help, which exits
            sys.stdout.flush()
            sys.stderr.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ops failed | head` has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):  # what is still to be written at the end
            os.dup2(nowhere, descriptor)
        return 141


if __name__ == '__main__':
    sys.exit(run())
