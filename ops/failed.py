"""The mail that failed last: what operators asked with SQL."""

import argparse
from functools import partial
from typing import Any

import asyncpg
from rich.console import Console

from db import selection as selections
from db.states import TRIED
from db.times import FIRST
from logs import hide_addresses
from ops.answer import Answer
from ops.arguments import add_json, add_limit
from ops.connect import Connections
from ops.mail_filter import add_filters, filter_of
from ops.output import print_table, say, told_state
from reporting.mail_filter import make_selection
from reporting.problems import Document
from reporting.wording import hide_recipient, reply_code, tried


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('--dead', action='store_true', help='only those that are not tried again')
    parser.add_argument(
        '--show-recipients', action='store_true', help='whole addresses instead of domains'
    )
    add_filters(parser)
    add_limit(parser, 20)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read them; that mail failed is no problem of the system's."""
    statuses = (selections.DEAD,) if options.dead else TRIED
    selection = await make_selection(connections, filter_of(vars(options)), statuses)
    emails = await connections.ask_postgres(
        partial(_read, selection=selection, limit=options.limit)
    )
    for email in emails:
        if not options.show_recipients:
            email['recipient'] = hide_recipient(email['recipient'])
            email['error'] = hide_addresses(email['error'])
    return Answer({'emails': emails, 'limit': options.limit})


async def _read(
    pool: asyncpg.Pool, selection: selections.Selection, limit: int
) -> list[dict[str, Any]]:
    emails = await selections.list_selected(pool, selection, limit)
    if selections.DEAD not in (selection.statuses or ()):
        emails += await selections.list_sent_in_part(pool, selection, limit)
        emails.sort(key=lambda email: (email['created_at'] or FIRST, email['id']), reverse=True)
    return emails[:limit]


def _state(email: Document) -> str:
    return 'sent in part' if email['status'] == 'sent' else told_state(email)


def render(document: Document, console: Console) -> None:
    """Print the table."""
    print_table(
        console,
        'Failed e-mails',
        ('id', 'recipient', 'type', 'status', 'attempts', 'code', 'next retry', 'error'),
        (
            (e['id'], e['recipient'], e['email_type'], _state(e),
             tried(e['attempts'], e['max_attempts']), reply_code(e),
             e['next_retry_at'], e['error'] or e['dead_reason'])
            for e in document['emails']
        ),
    )  # fmt: skip
    if len(document['emails']) == document['limit']:
        say(
            console,
            f'The newest {document["limit"]}; --limit N shows more, --until TIME older ones.',
        )
