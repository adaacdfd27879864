"""`python -m ops <command>`: what the `celery` command, redis-cli and SQL did.

Exit status: 0 fine, 1 a problem was found, 2 usage, 69 no worker replied, 75 not yet. The answer
goes to stdout, problems to stderr.
"""

import gc
import os
import sys
from collections.abc import Sequence

from ops.commands import COMMANDS, declare_commands
from ops.parser import CommandParser, command_name


def make_parser() -> CommandParser:
    """Return the parser of all commands."""
    return CommandParser(
        prog=command_name('python -m ops'),
        description="The operators' commands.",
        epilog='Exit status: 0 fine, 1 trouble found, 2 usage, 69 no worker replied, 75 not yet.',
        declare=declare_commands,
        tells_version=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print. Returns the exit status."""
    # What is imported stays; looking at it again and again takes a seventh of the start (2026-11).
    gc.disable()
    options = make_parser().parse_args(arguments)
    from ops.running import run_command  # noqa: PLC0415 - help and mistakes need no drivers

    row = COMMANDS[options.command]
    command = row.load(options.command)
    gc.freeze()
    gc.enable()
    return run_command(command, options, needs_settings=row.needs_settings)


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
