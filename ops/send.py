"""Send a test e-mail by the way that every e-mail goes, and say each step."""

import argparse

from rich.console import Console

from actions.audit import audited
from actions.test_mail import TEST_MAIL_TYPE, TEST_SUBJECT, queue_test_mail
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm
from ops.connect import Connections
from ops.following import add_wait, follow
from ops.mail_filter import text_value
from ops.output import say
from ops.person import this_person
from reporting.problems import Document

WAIT_S = 60.0
DETAILS = ('recipient', 'email_type', 'sender', 'organization')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('recipient', type=text_value, metavar='ADDRESS')
    parser.add_argument(
        '--subject', type=text_value, metavar='TEXT', help=f'default: {TEST_SUBJECT}'
    )
    parser.add_argument('--text', type=text_value, metavar='TEXT', help='what it says')
    parser.add_argument(
        '--from', dest='sender', type=text_value, metavar='ADDRESS',
        help='sender (default: that of the settings)',
    )  # fmt: skip
    parser.add_argument(
        '--type', dest='email_type', type=text_value, metavar='TYPE',
        help=f'email_type, for routes and pauses by type (default: {TEST_MAIL_TYPE})',
    )  # fmt: skip
    parser.add_argument(
        '--organization',
        type=text_value,
        metavar='ID',
        help='organization_id, for routes and quotas',
    )
    add_wait(parser, '--wait', WAIT_S)
    parser.add_argument('--no-wait', action='store_true', help='only queue it')
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Queue it and follow it; the exit status says how it ended, as that of `watch`."""

    def ask(recipient: str) -> None:
        confirm(f'Send a test e-mail to {recipient}?', yes=options.yes, nothing='sent')

    given = vars(options)
    values = {name: given[name] for name in (*DETAILS, 'subject', 'text')}
    await queue_test_mail(connections, **values, dry_run=True)
    if options.dry_run:
        return Answer({'dry_run': True, 'recipient': options.recipient})
    ask(options.recipient)
    details = {name: given[name] for name in DETAILS if given[name] is not None}
    async with audited(connections, this_person(), 'ops send', details) as entry:
        email_id = await queue_test_mail(connections, **values)
        assert email_id is not None  # noqa: S101 - for mypy: of a dry run alone
        entry.email_ids = [email_id]
    if options.no_wait:
        return Answer({'dry_run': False, 'email_id': email_id})
    return await follow(
        connections, options.command, email_id, options.for_s, as_lines=options.json
    )


def render(document: Document, console: Console) -> None:
    """Print what was queued, when it is not followed."""
    if document['dry_run']:
        say(console, 'It can be queued; nothing was.')
    else:
        email_id = document['email_id']
        say(console, f'E-mail {email_id} is queued; `python -m ops watch {email_id}` follows it.')
