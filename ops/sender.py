"""Addresses that e-mails may be from: list them, add some, take some off."""

import argparse
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from actions.senders import allow, disallow
from db import senders
from mail_outbox.envelope import InvalidEmailError
from ops.answer import Answer
from ops.arguments import add_change, add_json, add_limit, confirm
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table, say
from ops.person import this_user
from reporting.problems import Document, Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='ls|add|rm')
    ls = verbs.add_parser('ls', help='what may stand in From, in Sender and in MAIL FROM')
    add_limit(ls, 50)
    add = verbs.add_parser('add', help='e-mails may be from them')
    rm = verbs.add_parser('rm', help='no more; what waits and is from them ends for good')
    for verb in (add, rm):
        verb.add_argument(
            'addresses',
            type=allowed_sender,
            nargs='+',
            metavar='ADDRESS',
            help='or @example.com: all of a domain',
        )
        add_change(verb)
    for verb, what in ((ls, 'what its e-mails may use'), (add, 'only its'), (rm, 'off its list')):
        verb.add_argument(
            '--organization', type=text_value, metavar='ID', help=f'an organization_id: {what}'
        )
        add_json(verb)


def allowed_sender(text: str) -> str:
    """Read an address, or a domain as @example.com."""
    try:
        return senders.sender_pattern(text)
    except InvalidEmailError as error:
        raise argparse.ArgumentTypeError(
            f'{text!a} is neither an address nor @ and a domain'
        ) from error


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    whose = options.organization
    document: Document = {'sender': options.verb, 'organization_id': whose}
    if options.verb == 'ls':
        total, rows = await connections.ask_postgres(
            partial(senders.read_senders, organization_id=whose, limit=options.limit)
        )
        return Answer(document | {'total': total, 'entries': rows})
    document['dry_run'] = options.dry_run
    of = 'everybody' if whose is None else f'organisation {whose}'

    def ask(patterns: Sequence[str]) -> None:
        may = 'be from' if options.verb == 'add' else 'be from no more'
        confirm(f'Let e-mails of {of} {may} {", ".join(patterns)}?', yes=options.yes)

    if options.verb == 'add':
        done = await allow(
            connections, options.addresses, organization_id=whose,
            created_by=this_user(), dry_run=options.dry_run, confirm=ask,
        )  # fmt: skip
        return Answer(document | {'added': done.added, 'known': done.known})
    gone = await disallow(
        connections, options.addresses, organization_id=whose,
        dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    problems = []
    if gone.missing:
        what = f'not on the list: {", ".join(gone.missing)}'
        problems.append(Problem(what, 'see `python -m ops sender ls`'))
    return Answer(document | {'removed': gone.removed}, problems)


def render(document: Document, console: Console) -> None:
    """Print the list, or what was done."""
    if 'entries' in document:
        print_table(
            console,
            f'Allowed senders ({len(document["entries"])} of {document["total"]})',
            ('address', 'organisation', 'source', 'since', 'by'),
            (
                (e['pattern'], e['organization_id'] or 'all', e['source'], e['created_at'],
                 e['created_by'])
                for e in document['entries']
            ),
        )  # fmt: skip
        return
    would = 'Would be ' if document['dry_run'] else ''
    for verb in ('added', 'removed', 'known'):
        if document.get(verb):
            word = 'allowed already' if verb == 'known' else f'{would}{verb}'
            say(console, f'{word[0].upper()}{word[1:]}: {", ".join(document[verb])}.')
    if document['dry_run']:
        say(console, 'Nothing was changed.')
