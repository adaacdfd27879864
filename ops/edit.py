"""Correct whom an e-mail goes to, and send it again: what was not sent, or bounced."""

import argparse
from dataclasses import asdict

from rich.console import Console

from actions.audit import audited
from actions.call import queue_for
from actions.readdress import readdress
from actions.retry import RetryTerms
from logs import hide_addresses
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm, email_id
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import say
from ops.person import this_person
from reporting.problems import Document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    parser.add_argument(
        '--recipient', type=text_value, required=True, metavar='ADDRESS',
        help='instead of the one it has; several with commas',
    )  # fmt: skip
    parser.add_argument('--reason', type=text_value, metavar='TEXT', help='for the audit')
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Show what would be changed, ask, and do it if the e-mail is still as it was shown."""
    settings = connections.settings
    terms = RetryTerms(
        settings.email_expiry_hours, queue_for('send_email', routed=settings.queue_routing)
    )
    plan = await readdress(connections, options.id, options.recipient, terms, dry_run=True)
    if not options.dry_run:
        question = f'Send e-mail {plan.email_id} to {plan.after} instead of {plan.before or "-"}?'
        confirm(' '.join((question, *plan.warnings)), yes=options.yes)
        details = {
            'id': plan.email_id, 'before': plan.before, 'after': plan.after,
            'reason': options.reason, 'at': 'ops',
        }  # fmt: skip
        async with audited(connections, this_person(), 'email.readdress', details) as entry:
            plan = await readdress(
                connections, options.id, options.recipient, terms, seen=plan.before
            )
            entry.email_ids = [plan.email_id]
    document = asdict(plan)
    del document['problems']
    return Answer(document, list(plan.problems))


def render(document: Document, console: Console) -> None:
    """Print what was done; addresses stay hidden, as everywhere."""
    would = 'would go' if document['dry_run'] else 'goes'
    before = hide_addresses(document['before'] or 'nobody')
    email_id, after = document['email_id'], hide_addresses(document['after'])
    say(console, f'E-mail {email_id} {would} to {after} instead of {before}.')
    if document['warnings']:
        say(console, *document['warnings'])
    if document['dry_run']:
        say(console, 'Nothing was changed.')
    else:
        say(console, f'It is due now; `python -m ops watch {email_id}` follows it.')
