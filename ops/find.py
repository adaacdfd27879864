"""Find e-mails by whatever one has of them: the newest first, page by page."""

import argparse

from rich.console import Console

from db.email_list import LAST_ID
from logs import hide_addresses
from ops.answer import Answer
from ops.arguments import add_json, add_limit, email_id
from ops.connect import Connections
from ops.mail_filter import add_filters, filter_of, text_value
from ops.output import print_table, say, told_state
from reporting.found_mail import FoundMail, find_emails, find_this
from reporting.mail_filter import STATE_WORDS, id_in, meant_by
from reporting.problems import Document
from reporting.wording import counted, hide_recipient, reply_code, tried


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'word',
        type=text_value,
        nargs='?',
        metavar='WORD',
        help='an address, a domain, an id, a <Message-ID>, or words of the subject',
    )
    parser.add_argument(
        '--status',
        choices=STATE_WORDS,
        action='append',
        metavar='STATE',
        help=f'may be repeated: {", ".join(STATE_WORDS)}',
    )
    parser.add_argument('--message-id', type=text_value, metavar='ID', help='as in its header')
    add_filters(parser)
    parser.add_argument(
        '--before', type=email_id, default=LAST_ID, metavar='ID', help='go on with older ones'
    )
    add_limit(parser, 20)
    parser.add_argument(
        '--show-recipients', action='store_true', help='whole addresses instead of domains'
    )
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Look for them; that none fits is no problem of the system's."""
    found = await _find(connections, options)
    for email in found.emails:
        if not options.show_recipients:
            for name in ('recipient', 'cc', 'bcc', 'from_address'):
                email[name] = hide_recipient(email[name]) if email[name] else email[name]
            email['error'] = hide_addresses(email['error'])
    return Answer(
        {
            'emails': found.emails,
            'next_before': found.next_before,
            'is_whole': found.is_whole,
        }
    )


async def _find(connections: Connections, options: argparse.Namespace) -> FoundMail:
    if options.word and (email := id_in(options.word)):
        return await find_this(connections, email)
    given = vars(options)
    meant = {'message_id': options.message_id, **meant_by(options.word or '')}
    # An option of the same kind narrows it down further than the word does: it wins.
    conditions = filter_of(given, **meant)
    return await find_emails(
        connections, conditions, options.status, before_id=options.before, limit=options.limit
    )


def render(document: Document, console: Console) -> None:
    """Print the table, and how to go on."""
    emails = document['emails']
    print_table(
        console,
        counted(len(emails)) if emails else 'E-mails that fit',
        ('id', 'status', 'recipient', 'subject', 'type', 'attempts', 'queued', 'code', 'error'),
        (
            (e['id'], told_state(e), e['recipient'], e['subject'], e['email_type'],
             tried(e['attempts'], e['max_attempts']), e['created_at'], reply_code(e),
             None if e['status'] == 'sent' else e['error'] or e['dead_reason'])
            for e in emails
        ),
    )  # fmt: skip
    before = document['next_before']
    if not document['is_whole']:
        say(console, f'Few fit: so far as e-mail {before} was looked. --before {before} goes on.')
    elif before:
        say(console, f'There are more: --before {before} goes on, --limit N shows more at once.')
