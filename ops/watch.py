"""Follow one e-mail until it is sent, or until nothing more happens to it by itself."""

import argparse

from rich.console import Console

from ops.answer import Answer
from ops.arguments import add_json, email_id
from ops.connect import Connections
from ops.following import add_wait, follow
from reporting.problems import Document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    add_wait(parser, '--for', None)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Follow it; the exit status says how it ended."""
    return await follow(
        connections, options.command, options.id, options.for_s, as_lines=options.json
    )


def render(document: Document, console: Console) -> None:
    """Print nothing: it was printed as it happened."""
