"""`email-worker COMMAND`, which deploy/email-worker starts: each program under one name.

What a command is made of is imported when it runs, so that help and the version come at once.
"""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ops.commands import COMMANDS, declare_commands
from ops.parser import CommandParser, Declare

NAME = 'email-worker'

SHELLS = ('bash', 'zsh', 'fish')

# What a worker serves, by the name of its queue, and the settings that arq takes for it.
WORKERS = {
    'arq:queue': 'worker.WorkerSettings',
    'high_priority': 'worker.HighPriority',
    'low_priority': 'worker.LowPriority',
}


def declare_run(parser: CommandParser) -> None:
    """Declare the arguments of `run`: arq's options, and the queue by its name."""
    parser.add_argument(
        'queue',
        nargs='?',
        metavar='QUEUE',
        help=f'{", ".join(WORKERS)} (default: the first; QUEUE_ROUTING uses the others)',
    )
    parser.add_argument('--burst', action='store_true', help='end when the queue is empty')
    parser.add_argument('--check', action='store_true', help='does one serve the queue? then end')
    parser.add_argument('--watch', metavar='DIRECTORY', help='start again when a file changes')
    parser.add_argument('-v', '--verbose', action='store_true', help="arq's own log lines too")


def run_arguments(words: Sequence[str]) -> list[str]:
    """Return what `arq` is told: the settings of a queue, and its options.

    Without a queue WORKER_SETTINGS names them, as in the systemd unit.

    Raises:
        SystemExit: usage, with 2.
    """
    parser = make_parser_of('run')
    options = parser.parse_args(words)
    asked = options.queue or os.environ.get('WORKER_SETTINGS') or 'arq:queue'
    if asked not in WORKERS and asked not in WORKERS.values():
        parser.error(f'no worker serves {asked!r}: give one of {", ".join(WORKERS)}')
    flags = [f'--{name}' for name in ('burst', 'check', 'verbose') if getattr(options, name)]
    watch = ['--watch', options.watch] if options.watch else []
    return [WORKERS.get(asked, asked), *flags, *watch]


def declare_migrate(parser: CommandParser) -> None:
    """Declare the arguments of `migrate`."""
    from ops.migration import declare_steps  # noqa: PLC0415 - only when asked

    declare_steps(parser)


def declare_completion(parser: CommandParser) -> None:
    """Declare the arguments of `completion`."""
    parser.add_argument('shell', choices=SHELLS, help='for which shell')


def declare_nothing(_: CommandParser) -> None:
    """Declare no argument: the settings say everything."""


class StartedProgram(NamedTuple):
    """What a command runs: as `python -m module`, in this process."""

    module: str
    help: str
    declare: Declare = declare_nothing
    examples: Sequence[str] = ()


PROGRAMS: Mapping[str, StartedProgram] = {
    'run': StartedProgram(
        'arq', 'deliver e-mail: a worker, until SIGTERM', declare_run, ('', 'high_priority')
    ),
    'web': StartedProgram('web', 'the page, /metrics and the HTTP API, until SIGTERM'),
    'ingress': StartedProgram('ingress', 'take e-mail by SMTP, until SIGTERM'),
    'migrate': StartedProgram(
        'db.migrate',
        'bring the schema up to date; adopt a table that was there before',
        declare_migrate,
        ('', '--dry-run'),
    ),
    'ops': StartedProgram(
        'ops', "the operators' commands: status, explain, retry, doctor ...", declare_commands
    ),
    'completion': StartedProgram(
        'shtab',
        'print what completes all this in your shell',
        declare_completion,
        (
            'bash >/etc/bash_completion.d/email-worker',
            'zsh >"${fpath[1]}/_email-worker"',
            'fish >~/.config/fish/completions/email-worker.fish',
        ),
    ),
}
GROUPS = {
    'programs': ('run', 'web', 'ingress'),
    'for operators': ('migrate', 'ops', 'completion'),
}
EPILOG = """Settings: docs/configuration.md. `email-worker COMMAND --help` says more.

examples:
  email-worker migrate
  email-worker run
  email-worker ops status"""


def make_parser_of(command: str) -> CommandParser:
    """Return the parser of one command."""
    program = PROGRAMS[command]
    return CommandParser(
        prog=f'{NAME} {command}',
        description=program.help,
        declare=program.declare,
        examples=program.examples,
        tells_version=True,
    )


def declare_programs(parser: CommandParser) -> None:
    """Give a parser all programs."""
    commands = parser.add_commands(GROUPS, dest='command', metavar='COMMAND')
    for name, program in PROGRAMS.items():
        commands.add_parser(
            name, help=program.help, description=program.help, declare=program.declare
        )


def make_parser_of_all() -> CommandParser:
    """Return the parser of every command."""
    return CommandParser(
        prog=NAME, description='Delivers transactional e-mail.', epilog=EPILOG,
        declare=declare_programs, tells_version=True,
    )  # fmt: skip


def completion_script(shell: str) -> str:
    """Return the script that completes every command, option and word of a list."""
    import shtab  # noqa: PLC0415 - only when asked

    parser = make_parser_of_all()
    parser.declare_all()
    return shtab.complete(parser, shell)


def main(words: Sequence[str]) -> None:
    """Become the program that the first word names.

    Raises:
        SystemExit: with its exit status; 2 for wrong use.
    """
    command, rest = (words[0], words[1:]) if words else ('--help', ())
    if command not in PROGRAMS:
        parser = make_parser_of_all()
        if command in COMMANDS:
            parser.error(f'{command} is a command of operators: {NAME} ops {command}')
        parser.parse_args([command])  # help, or what is wrong
        parser.error('the command comes first')
    if command == 'completion':
        print(completion_script(make_parser_of(command).parse_args(rest).shell))
        return
    if command == 'run':
        rest = run_arguments(rest)
    elif PROGRAMS[command].declare is declare_nothing:
        make_parser_of(command).parse_args(rest)
    sys.argv = [f'{NAME} {command}', *rest]
    runpy.run_module(PROGRAMS[command].module, run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1:])
