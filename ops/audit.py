"""Who changed what, from where and when: what came over HTTP, tokens, and these commands."""

import argparse
from functools import partial

from rich.console import Console

from db.audit import read_audit
from db.selection import read_clock
from ops.answer import Answer
from ops.arguments import add_json, add_limit, email_id
from ops.connect import Connections
from ops.mail_filter import moment, text_value
from ops.output import print_table
from reporting.problems import Document
from reporting.wording import counted

SHOWN_IDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='ls')
    ls = verbs.add_parser('ls', help='the newest changes')
    ls.add_argument('--since', type=moment, metavar='TIME', help='within 2h, 7d, or after a time')
    ls.add_argument('--by', type=text_value, metavar='NAME', help="a token's name, or a login")
    ls.add_argument('--email', type=email_id, metavar='ID', help='only what changed this e-mail')
    add_limit(ls, 50)
    add_json(ls)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """List them."""
    since = options.since and options.since.by(await connections.ask_postgres(read_clock))
    reading = partial(
        read_audit, since=since, actor=options.by, email_id=options.email, limit=options.limit
    )
    return Answer({'changes': await connections.ask_postgres(reading)})


def render(document: Document, console: Console) -> None:
    """Print a table."""
    print_table(
        console,
        counted(len(document['changes']), 'change'),
        ('at', 'by', 'from', 'what', 'e-mails', 'details', 'ended'),
        (
            (c['at'], c['actor'], c['origin'], c['action'], _ids(c['email_ids']),
             _details(c['details']), c['problem'] or ('' if c['finished_at'] else 'cut off'))
            for c in document['changes']
        ),
    )  # fmt: skip


def _ids(email_ids: list[int]) -> str:
    shown = ', '.join(map(str, email_ids[:SHOWN_IDS]))
    more = len(email_ids) - SHOWN_IDS
    return f'{shown} and {more} more' if more > 0 else shown


def _details(details: Document) -> str:
    return ', '.join(f'{name} {value}' for name, value in details.items() if value is not None)
