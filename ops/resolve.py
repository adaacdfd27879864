"""Decide about uncertain e-mails: they did arrive, or they are given up."""

import argparse
from dataclasses import asdict

from rich.console import Console

from actions.resolve import DECISIONS, ResolvePlan, resolve_emails
from ops.answer import Answer, unchanged_problems
from ops.arguments import add_change, add_json, but_not, confirm, email_id
from ops.connect import Connections
from ops.output import print_unchanged, say
from reporting.problems import Document
from reporting.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('ids', type=email_id, nargs='+', metavar='ID')
    parser.add_argument(
        '--as',
        dest='decision',
        choices=DECISIONS,
        required=True,
        help='sent: it arrived; failed: no further attempt',
    )
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Change what can be changed, and say why for the rest."""

    def ask(plan: ResolvePlan) -> None:
        emails = counted(plan.emails)
        question = f'Resolve {emails} as {options.decision}{but_not(plan.left)}?'
        confirm(question, yes=options.yes)

    done = await resolve_emails(
        connections, options.ids, options.decision, dry_run=options.dry_run, confirm=ask
    )
    return Answer(asdict(done), unchanged_problems(done.unchanged), email_ids=done.resolved)


def render(document: Document, console: Console) -> None:
    """Print what was done, counted, and the reasons."""
    would = 'would be ' if document['dry_run'] else ''
    say(console, f'{counted(len(document["resolved"]))} {would}resolved as {document["decision"]}.')
    print_unchanged(console, document['unchanged'])
