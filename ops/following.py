"""One e-mail's steps, printed as they happen: what `watch` and `send` share."""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from ops.answer import Answer
from ops.arguments import duration_s
from ops.connect import Connections
from ops.output import make_console, print_problems, style_of
from reporting.following import MailStep, MailWatch
from reporting.wording import as_json, cell

COLUMN = 10  # of what happened: the longest word of an outcome, and some


def add_wait(parser: argparse.ArgumentParser, name: str, default_s: float | None) -> None:
    """Give a command an option that says how long it follows an e-mail."""
    otherwise = 'until it is over' if default_s is None else f'{default_s:.0f}s'
    parser.add_argument(
        name, dest='for_s', type=duration_s, default=default_s, metavar='TIME',
        help=f'follow it for 30s, 5m ... at most (default: {otherwise})',
    )  # fmt: skip


async def follow(
    connections: Connections, command: str, email_id: int, for_s: float | None, *, as_lines: bool
) -> Answer:
    """Print what becomes of an e-mail until it is over.

    Args:
        as_lines: One JSON object a line.
    Returns:
        Exit status 0 when it was sent, 1 when it was not, 75 when the time is over.
    Raises:
        ProblemError: there is no such e-mail, or PostgreSQL does not answer.
    """
    watch, told = MailWatch(connections, email_id), None
    async for steps in watch.steps(for_s):
        for step in steps:
            _print(step, as_lines=as_lines)
        if watch.troubles and watch.troubles != told:
            print_problems(command, watch.troubles)
        told = watch.troubles
    problems = [] if watch.end is None else [watch.end]
    return Answer({'email_id': email_id}, problems, streamed=True)


def _print(step: MailStep, *, as_lines: bool) -> None:
    if as_lines:
        sys.stdout.write(as_json(asdict(step), indent=None) + '\n')
        sys.stdout.flush()
        return
    console = make_console()
    what = cell(step.what)
    console.print(f'{_time(step.at.astimezone(UTC))}  ', end='', style='dim', soft_wrap=True)
    console.print(f'{what:<{COLUMN}}', end='  ', style=style_of('outcome', what), soft_wrap=True)
    console.print(cell(step.text), soft_wrap=True)
    console.file.flush()


def _time(at: datetime) -> str:
    """Return a time of today in milliseconds, one of another day with its date."""
    is_today = at.date() == datetime.now(UTC).date()
    return at.strftime('%H:%M:%S.%f')[:-3] if is_today else at.strftime('%Y-%m-%d %H:%M:%SZ')
