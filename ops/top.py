"""A live screen: what needs a person, rates, workers, queues, types, relays, the last failures."""

import argparse
import asyncio
import contextlib
import sys

from rich.console import Console

from ops.answer import Answer
from ops.arguments import add_json, add_workers, wait_s
from ops.connect import Connections
from ops.output import make_console
from ops.screen.look import FleetLook, look_at_fleet
from ops.screen.overview import body_lines, head_lines
from ops.screen.screen import FleetScreen
from reporting.live import Audience
from reporting.problems import Document

EVERY = 100  # problems: all of them, where nothing scrolls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        '--once', action='store_true', help='print it once; as without a terminal, or with --json'
    )
    parser.add_argument(
        '--interval', type=wait_s, default=2.0, metavar='SECONDS', help='between looks (default 2)'
    )
    add_workers(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Look once, or show it until somebody leaves."""
    audience = Audience(options.workers, options.timeout)
    first = await look_at_fleet(connections, audience)
    if options.once or options.json or not sys.stdout.isatty():
        return Answer(first.document, first.problems)
    with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is one way to leave
        await FleetScreen(connections, audience, options.interval, make_console()).run(first)
    return Answer({}, streamed=True)


def render(document: Document, console: Console) -> None:
    """Print it once; problems are told after it, as those of every command."""
    look = FleetLook(document)
    lines = head_lines(look, console.width, EVERY, with_problems=False)
    for line in [*lines, *body_lines(look, console.width)]:
        console.print(line.text, soft_wrap=True)
