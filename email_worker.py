"""`email-worker COMMAND`, which deploy/email-worker starts: each program under one name.

What a command is made of is imported when it runs, so that help and the version come at once.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NAME = 'email-worker'


class StartedProgram(NamedTuple):
    """What a command runs: as `python -m module`, in this process."""

    module: str
    help: str
    has_arguments: bool = True


PROGRAMS: Mapping[str, StartedProgram] = {
    'run': StartedProgram('arq', 'deliver e-mail: a worker, until SIGTERM'),
    'web': StartedProgram('web', 'the page, /metrics and the HTTP API', has_arguments=False),
    'ingress': StartedProgram('ingress', 'take e-mail by SMTP', has_arguments=False),
    'migrate': StartedProgram('db.migrate', 'bring the schema up to date; adopt a table'),
    'ops': StartedProgram('ops', "the operators' commands: status, explain, retry, doctor ..."),
}

# What a worker serves, by the name of its queue, and the settings that arq takes for it.
WORKERS = {
    'arq:queue': 'worker.WorkerSettings',
    'high_priority': 'worker.HighPriority',
    'low_priority': 'worker.LowPriority',
}


def make_command_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's first word."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description='Delivers transactional e-mail.',
        epilog='`email-worker COMMAND --help` says more. Settings: docs/configuration.md.',
    )
    parser.add_argument('--version', action='store_true', help='print the version')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, program in PROGRAMS.items():
        commands.add_parser(name, help=program.help, add_help=False)
    return parser


def make_run_parser() -> argparse.ArgumentParser:
    """Return the parser of `run`: arq's options, and the queue by its name."""
    parser = argparse.ArgumentParser(prog=f'{NAME} run', description='Deliver e-mail.')
    parser.add_argument(
        'queue',
        nargs='?',
        metavar='QUEUE',
        help=f'{", ".join(WORKERS)} (the first one; QUEUE_ROUTING uses the others)',
    )
    parser.add_argument('--burst', action='store_true', help='end when the queue is empty')
    parser.add_argument('--check', action='store_true', help='does one serve the queue? then end')
    parser.add_argument('--watch', metavar='DIRECTORY', help='start again when a file changes')
    parser.add_argument('-v', '--verbose', action='store_true', help="arq's own log lines too")
    return parser


def run_arguments(words: Sequence[str]) -> list[str]:
    """Return what `arq` is told: the settings of a queue, and its options.

    Without a queue WORKER_SETTINGS names them, as in the systemd unit.

    Raises:
        SystemExit: usage, with 2.
    """
    parser = make_run_parser()
    options = parser.parse_args(words)
    asked = options.queue or os.environ.get('WORKER_SETTINGS') or 'arq:queue'
    if asked not in WORKERS and asked not in WORKERS.values():
        parser.error(f'no worker serves {asked!r}: give one of {", ".join(WORKERS)}')
    flags = [f'--{name}' for name in ('burst', 'check', 'verbose') if getattr(options, name)]
    watch = ['--watch', options.watch] if options.watch else []
    return [WORKERS.get(asked, asked), *flags, *watch]


def make_bare_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command that the settings tell everything."""
    return argparse.ArgumentParser(
        prog=f'{NAME} {command}',
        description=f'{PROGRAMS[command].help}. Until SIGTERM.',
        epilog='Settings: docs/configuration.md.',
    )


def print_version() -> None:
    """Print the version of this tree."""
    from configuration.version import program_version  # noqa: PLC0415 - no command needs it

    print(f'{NAME} {program_version()}')


def main(words: Sequence[str]) -> None:
    """Become the program that the first word names.

    Raises:
        SystemExit: with its exit status; 2 for wrong use.
    """
    parser = make_command_parser()
    command, rest = (words[0], words[1:]) if words else ('--help', ())
    if command not in PROGRAMS:
        parser.parse_args([command])  # help, or what is wrong
        print_version()
        return
    if command == 'run':
        rest = run_arguments(rest)
    elif not PROGRAMS[command].has_arguments:
        make_bare_parser(command).parse_args(rest)
    sys.argv = [f'{NAME} {command}', *rest]
    runpy.run_module(PROGRAMS[command].module, run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1:])
