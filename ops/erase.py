"""Erase what is held on one person's address."""

import argparse

from rich.console import Console

from actions.erase import Erasure, erase_person, erasure_document, erasure_lines
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm
from ops.connect import Connections
from ops.output import say
from ops.person import this_person
from ops.suppress import reason_text, suppression
from reporting.problems import Document
from reporting.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('address', type=suppression, metavar='ADDRESS')
    parser.add_argument(
        '--reason', type=reason_text, required=True, help='for the audit, which has no address'
    )
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Erase them, after asking."""

    def ask(planned: Erasure) -> None:
        confirm(f'{_told(planned, "Erase")} This cannot be taken back.', yes=options.yes)

    done = await erase_person(
        connections, options.address, this_person(), options.reason,
        dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    return Answer({'erase': 'done', **erasure_document(done)}, list(done.problems))


def _told(done: Erasure, verb: str) -> str:
    return (
        f'{verb} {counted(done.emails)} to this address alone, take it out of '
        f'{counted(done.freed)} with others?'
    )


def render(document: Document, console: Console) -> None:
    """Print what was done, counted."""
    for line in erasure_lines(document):
        say(console, line)
