"""Options that several commands share, and the values they take."""

import argparse
import math
import re
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from logs import visible
from reporting.inspection import MAX_ROWS
from reporting.problems import USAGE, Problem, ProblemError

UNITS_S = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}
MAX_ATTEMPTS, MAX_HOURS = 100, 87600
NO_TERMINAL = Problem(
    'refused: there is no terminal to ask at', 'give --yes or --dry-run', exit_status=USAGE
)
DURATION = re.compile(r'([0-9]{1,9})([smhd])')


class Choices:
    """The words of a command: all are understood, and only those that do something are listed."""

    def __init__(self, shown: Collection[str], hidden: Collection[str]) -> None:
        self._shown, self._hidden = shown, hidden

    def __contains__(self, word: object) -> bool:
        return word in self._shown or word in self._hidden

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)


class ListedParsers(dict[str, argparse.ArgumentParser]):
    """The same of commands that have parsers."""

    def __init__(
        self, shown: Mapping[str, argparse.ArgumentParser], hidden: Collection[str]
    ) -> None:
        super().__init__(shown)
        self._hidden = hidden

    def __contains__(self, word: object) -> bool:
        return super().__contains__(word) or word in self._hidden


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a command --json."""
    parser.add_argument('--json', action='store_true', help='one JSON document on stdout')


def add_limit(parser: argparse.ArgumentParser, default: int) -> None:
    """Give a command --limit."""
    parser.add_argument(
        '--limit',
        type=count,
        default=default,
        metavar='N',
        help=f'rows at most (default {default})',
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Give a command --worker and --timeout, Celery's -d and -t."""
    parser.add_argument(
        '-d', '--worker', '--destination', dest='workers', action='append', metavar='NAME',
        help='only this worker; * stands for anything; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '-t',
        '--timeout',
        type=wait_s,
        default=2.0,
        metavar='SECONDS',
        help='wait for replies (default 2)',
    )


def add_change(parser: argparse.ArgumentParser) -> None:
    """Give a command that changes something --yes and --dry-run."""
    parser.add_argument('--yes', action='store_true', help='do not ask')
    parser.add_argument(
        '--dry-run', action='store_true', help='say what would be done, and change nothing'
    )


def duration_s(text: str) -> float:
    """Read 90s, 30m, 2h or 7d."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no length of time such as 90s, 30m, 2h or 7d'
        )
    return float(match[1]) * UNITS_S[match[2]]


def wait_s(text: str) -> float:
    """Read how long to wait for replies."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 600:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds up to 600')
    return seconds


def count(text: str) -> int:
    """Read a number of rows."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_ROWS):
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 to {MAX_ROWS}')
    return int(text)


def attempts(text: str) -> int:
    """Read a number of attempts."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_ATTEMPTS):
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 to {MAX_ATTEMPTS}')
    return int(text)


def hours(text: str) -> float:
    """Read a number of hours."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_HOURS:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of hours above 0 and up to {MAX_HOURS}'
        )
    return value


def email_id(text: str) -> int:
    """Read an e-mail's id."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) < 2**63):
        raise argparse.ArgumentTypeError(f'{text!r} is no id of an e-mail: a positive whole number')
    return int(text)


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask on stderr, so that stdout stays the answer's.

    Args:
        yes: --yes was given, which answers by itself.
    Raises:
        ProblemError: there is no terminal to ask at.
    """
    if yes:
        return True
    if not (sys.stdin and sys.stdin.isatty()):
        raise ProblemError(NO_TERMINAL)
    # asyncio's own handler would only cancel the task, which reading a line never notices.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f'{visible(question)} [y/N] ', end='', file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ('y', 'yes')
    finally:
        signal.signal(signal.SIGINT, handler)


def confirm(question: str, *, yes: bool, nothing: str = 'changed') -> None:
    """Ask, and end the command unless the answer is yes.

    Args:
        nothing: What was not done.
    Raises:
        ProblemError: the answer is no, or nobody can answer.
    """
    if not confirmed(question, yes=yes):
        raise ProblemError(
            Problem(f'not confirmed, nothing was {nothing}', 'answer y, or give --yes')
        )


def but_not(left: Sequence[int]) -> str:
    """Name, within a question, what was given and is left alone."""
    return f', and leave {", ".join(map(str, left))} alone' if left else ''
