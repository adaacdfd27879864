"""Addresses that get no mail, or none of a type: list them, add some, take some off."""

import argparse
from collections.abc import Sequence, Sized
from functools import partial

from rich.console import Console

from actions.suppress import suppress_addresses, unsuppress_addresses
from db import suppressions
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.suppression import MAX_TYPE_CHARS
from ops.answer import Answer
from ops.arguments import add_change, add_json, add_limit, confirm, duration_s
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table, say
from ops.person import this_user
from reporting.problems import Document, Problem
from reporting.wording import cell, hide_recipient

SOURCES = ('operator', 'bounce', 'complaint', 'unsubscribe')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='ls|add|rm')
    ls = verbs.add_parser('ls', help='the newest entries, or whether somebody is on the list')
    ls.add_argument(
        'addresses', type=suppression, nargs='*', metavar='ADDRESS', help='only what concerns these'
    )
    ls.add_argument('--source', choices=SOURCES, help='only those from there')
    ls.add_argument(
        '--type', dest='email_type', type=type_name, metavar='TYPE',
        help='only entries of this type of e-mail; with addresses: what keeps mail of it from them',
    )  # fmt: skip
    ls.add_argument(
        '--show-addresses', action='store_true', help='whole addresses instead of domains'
    )
    add_limit(ls, 50)
    add_json(ls)
    add = verbs.add_parser('add', help='they get no mail any more')
    add.add_argument(
        '--reason',
        type=reason_text,
        required=True,
        help='what is written into the e-mails that are not sent',
    )
    add.add_argument('--source', choices=SOURCES, default='operator')
    add.add_argument(
        '--for', dest='for_s', type=duration_s, metavar='TIME', help='only so long: 2h, 30d ...'
    )
    rm = verbs.add_parser('rm', help='they get mail again; what was not sent stays so, see retry')
    for verb in (add, rm):
        verb.add_argument(
            'addresses',
            type=suppression,
            nargs='+',
            metavar='ADDRESS',
            help='or @example.com: all of a domain',
        )
        verb.add_argument(
            '--type', dest='email_type', type=type_name, metavar='TYPE',
            help='only e-mails of this type; without it: all mail',
        )  # fmt: skip
        add_change(verb)
        add_json(verb)


def suppression(text: str) -> str:
    """Read an address, or a domain as @example.com."""
    try:
        return suppressions.suppression_key(text)
    except InvalidEmailError as error:
        raise argparse.ArgumentTypeError(
            f'{text!a} is neither an address nor @ and a domain'
        ) from error


def type_name(text: str) -> str:
    """Read a type of e-mail."""
    if not text_value(text).isprintable() or len(text) > MAX_TYPE_CHARS:
        raise argparse.ArgumentTypeError(f'must be a name of at most {MAX_TYPE_CHARS} characters')
    return text


def reason_text(text: str) -> str:
    """Read a reason: it ends up in rows and logs, so it is one line."""
    if not text_value(text).isprintable() or len(text) > suppressions.MAX_REASON_CHARS:
        raise argparse.ArgumentTypeError(
            f'must be one line of at most {suppressions.MAX_REASON_CHARS} characters'
        )
    return text


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    if options.verb == 'ls':
        return await _list(
            connections, options.addresses, options.source, options.email_type, options.limit,
            show_addresses=options.show_addresses,
        )  # fmt: skip
    if options.verb == 'rm':
        return await _remove(connections, options)
    of_type = _of_type(options.email_type)

    def ask(keys: Sequence[str]) -> None:
        confirm(f'Send nothing more{of_type} to {", ".join(keys)}?', yes=options.yes)

    done = await suppress_addresses(
        connections, options.addresses, options.reason, source=options.source,
        created_by=this_user(), for_s=options.for_s, email_type=options.email_type,
        dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    document: Document = {
        'suppress': 'add', 'dry_run': done.dry_run, 'expires_at': done.expires_at,
        'email_type': options.email_type,
    }  # fmt: skip
    if done.dry_run:
        return Answer(document | {'would_add': done.keys})
    return Answer(document | {'added': done.added, 'changed': done.changed})


async def _list(
    connections: Connections,
    addresses: Sequence[str],
    source: str | None,
    email_type: str | None,
    limit: int,
    *,
    show_addresses: bool,
) -> Answer:
    """List entries; with addresses, what keeps each of them from getting mail."""
    if addresses:
        reasons = await connections.ask_postgres(
            partial(suppressions.suppressed, addresses=addresses, email_type=email_type)
        )
        found = [{'address': address, 'reason': reasons.get(address)} for address in addresses]
        return Answer({'suppress': 'ls', 'asked': found})
    total, rows = await connections.ask_postgres(
        partial(suppressions.read_suppressions, source=source, email_type=email_type, limit=limit)
    )
    for row in rows:
        if not (show_addresses or row['address'].startswith('@')):
            row['address'] = hide_recipient(row['address'])
    return Answer({'suppress': 'ls', 'total': total, 'entries': rows})


def _of_type(email_type: str | None) -> str:
    return '' if email_type is None else f' of the type {email_type}'


async def _remove(connections: Connections, options: argparse.Namespace) -> Answer:
    of_type, dry_run = _of_type(options.email_type), options.dry_run

    def ask(keys: Sequence[str]) -> None:
        confirm(f'Let {", ".join(keys)} get mail{of_type} again?', yes=options.yes)

    done = await unsuppress_addresses(
        connections, options.addresses, email_type=options.email_type, dry_run=dry_run, confirm=ask
    )
    problems = []
    if done.missing:
        what = f'not on the list{of_type}: {", ".join(done.missing)}'
        problems.append(Problem(what, 'see `python -m ops suppress ls`'))
    document = {'suppress': 'rm', 'dry_run': dry_run, 'email_type': options.email_type}
    return Answer(document | {'would_remove' if dry_run else 'removed': done.removed}, problems)


def _end(entry: Document) -> str:
    if not entry['expires_at']:
        return 'for good'
    return f'{cell(entry["expires_at"])}{" (over)" if entry["is_over"] else ""}'


def _entries(entries: Sized) -> str:
    return '1 entry' if len(entries) == 1 else f'{len(entries)} entries'


def render(document: Document, console: Console) -> None:
    """Print the list, or what was done, counted."""
    if 'entries' in document:
        print_table(
            console,
            f'Suppressed ({len(document["entries"])} of {document["total"]})',
            ('address', 'type', 'reason', 'source', 'since', 'by', 'until'),
            (
                (
                    e['address'], e['email_type'] or 'every', e['reason'], e['source'],
                    e['created_at'], e['created_by'], _end(e),
                )
                for e in document['entries']
            ),
        )  # fmt: skip
    elif 'asked' in document:
        rows = (
            (e['address'], 'no mail' if e['reason'] else 'gets mail', e['reason'])
            for e in document['asked']
        )
        print_table(console, 'Suppressed', ('address', '', 'reason'), rows)
    elif document['suppress'] == 'add':
        if document['dry_run']:
            say(console, f'Would add {_entries(document["would_add"])}; nothing was changed.')
        else:
            say(console, f'{len(document["added"])} added, {len(document["changed"])} changed.')
    elif document['dry_run']:
        say(console, f'Would remove {_entries(document["would_remove"])}; nothing was changed.')
    else:
        say(console, f'{len(document["removed"])} removed.')
