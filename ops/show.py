"""Everything about one e-mail: the row, every attempt, its attachments' names, and what happens next."""

import argparse
import asyncio
from functools import partial
from typing import Any

from rich.console import Console

from db import reports
from ops.answer import Answer, Document, Trouble, TroubleError
from ops.arguments import add_json, email_id
from ops.connect import Connections, attempt
from ops.live import has_worker
from ops.next_step import next_step
from ops.output import cell, hide_addresses, hide_recipient, print_table

HELP = 'one e-mail: its row, its attempts, its attachments, and what happens next'

CONTENT = ('body_text', 'body_html', 'template_data')
PERSONAL = ('smtp_response', 'last_error', 'reply', 'error')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    parser.add_argument('--content', action='store_true', help='bodies and template data too; they may hold secrets')
    parser.add_argument('--show-recipients', action='store_true', help='whole addresses instead of domains')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read the row first; Redis and MongoDB add to it when they answer."""
    email = await connections.ask_postgres(
        partial(reports.read_email, email_id=options.id, with_content=options.content)
    )
    if email is None:
        raise TroubleError(Trouble(f'there is no e-mail {options.id}', 'see `python -m ops failed` for ids'))
    troubles: list[Trouble] = []
    attempts, alive, attachments = await asyncio.gather(
        connections.ask_postgres(partial(reports.read_attempts, email_id=options.id)),
        attempt(connections.ask_redis(has_worker), troubles),
        _read_attachments(connections, email['content_id'], troubles),
    )
    step = next_step(email, has_worker=alive)
    for name in ('read_at',) if options.content else ('read_at', *CONTENT):
        del email[name]
    if not options.show_recipients:
        _hide(email)
        for made in attempts:
            _hide(made)
    return Answer({'email': email, 'attempts': attempts, 'attachments': attachments, 'next': step}, troubles)


async def _read_attachments(
    connections: Connections, content_id: str | None, troubles: list[Trouble]
) -> list[Document] | None:
    """Return the attachments without their data; None when MongoDB does not answer."""
    if content_id is None:
        return []
    return await attempt(connections.ask_mongo(partial(reports.read_attachments, content_id=content_id)), troubles)


def _hide(row: dict[str, Any]) -> None:
    """Take the addresses out of a row or an attempt."""
    for name in PERSONAL:
        if name in row:
            row[name] = hide_addresses(row[name])
    if 'recipient' in row:
        row['recipient'] = hide_recipient(row['recipient'])
        row['headers'] = row['headers'] and sorted(row['headers'])
        row['recipient_outcomes'] = [
            [hide_recipient(address), outcome, hide_addresses(reply)]
            for address, (outcome, reply) in (row['recipient_outcomes'] or {}).items()
        ]


def render(document: Document, console: Console) -> None:
    """Print the tables, the sentence last."""
    email = document['email']
    plain = ((name, value) for name, value in email.items() if name not in CONTENT and value not in (None, [], {}))
    print_table(console, f'E-mail {email["id"]}', ('', ''), ((name.replace('_', ' '), value) for name, value in plain))
    print_table(
        console,
        'Attempts',
        ('attempt', 'at', 'took', 'worker', 'outcome', 'phase', 'relay', 'code', 'reply or error'),
        (
            (a['attempt'], a['started_at'], None if a['duration_ms'] is None else f'{a["duration_ms"]} ms',
             a['worker'], a['outcome'], a['phase'], a['relay'], a['enhanced_code'] or a['smtp_code'],
             a['reply'] or a['error'])
            for a in document['attempts']
        ),
    )  # fmt: skip
    if document['attachments'] is not None:
        print_table(
            console,
            'Attachments',
            ('name', 'type', 'cid'),
            ((a.get('filename'), a.get('content_type'), a.get('cid')) for a in document['attachments']),
        )
    for name in CONTENT:
        if email.get(name):
            console.print(f'{name}:', style='bold')
            console.print('\n'.join(map(cell, email[name].splitlines())))
            console.print()
    console.print(cell(document['next']))
