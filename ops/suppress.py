"""Addresses that get no mail: list them, add some, take some off."""

import argparse
import getpass
from collections.abc import Sized
from datetime import timedelta
from functools import partial
from typing import Any

from rich.console import Console

from db import suppressions
from db.selection import read_clock
from mail_outbox.envelope import InvalidEmailError
from ops.answer import Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, add_limit, confirmed, duration_s
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import cell, hide_recipient, print_table, say

HELP = 'ls, add, rm: addresses and whole domains that get no mail'

SOURCES = ('operator', 'bounce', 'complaint', 'unsubscribe')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='ls|add|rm')
    ls = verbs.add_parser('ls', help='the newest entries, or whether somebody is on the list')
    ls.add_argument(
        'addresses', type=key, nargs='*', metavar='ADDRESS', help='only what concerns these'
    )
    ls.add_argument('--source', choices=SOURCES, help='only those from there')
    ls.add_argument(
        '--show-addresses', action='store_true', help='whole addresses instead of domains'
    )
    add_limit(ls, 50)
    add_json(ls)
    add = verbs.add_parser('add', help='they get no mail any more')
    add.add_argument(
        '--reason',
        type=reason,
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
            type=key,
            nargs='+',
            metavar='ADDRESS',
            help='or @example.com: all of a domain',
        )
        add_change(verb)
        add_json(verb)


def key(text: str) -> str:
    """Read an address, or a domain as @example.com."""
    try:
        return suppressions.suppression_key(text)
    except InvalidEmailError as error:
        raise argparse.ArgumentTypeError(
            f'{text!a} is neither an address nor @ and a domain'
        ) from error


def reason(text: str) -> str:
    """Read a reason: it ends up in rows and logs, so it is one line."""
    if not text_value(text).isprintable() or len(text) > suppressions.MAX_REASON_CHARS:
        raise argparse.ArgumentTypeError(
            f'must be one line of at most {suppressions.MAX_REASON_CHARS} characters'
        )
    return text


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    return await {'ls': run_ls, 'add': run_add, 'rm': run_rm}[options.verb](connections, options)


async def run_ls(connections: Connections, options: argparse.Namespace) -> Answer:
    """List entries; with addresses, what keeps each of them from getting mail."""
    if options.addresses:
        reasons = await connections.ask_postgres(
            partial(suppressions.suppressed, addresses=options.addresses)
        )
        found = [
            {'address': address, 'reason': reasons.get(address)} for address in options.addresses
        ]
        return Answer({'suppress': 'ls', 'asked': found})
    total, rows = await connections.ask_postgres(
        partial(suppressions.read_suppressions, source=options.source, limit=options.limit)
    )
    for row in rows:
        if not (options.show_addresses or row['address'].startswith('@')):
            row['address'] = hide_recipient(row['address'])
    return Answer({'suppress': 'ls', 'total': total, 'entries': rows})


async def run_add(connections: Connections, options: argparse.Namespace) -> Answer:
    """Add, or give a new reason."""
    keys = list(dict.fromkeys(options.addresses))
    expires_at = None
    if options.for_s is not None:
        expires_at = await connections.ask_postgres(read_clock) + timedelta(
            seconds=min(options.for_s, 10**9)
        )
    document: Document = {'suppress': 'add', 'dry_run': options.dry_run, 'expires_at': expires_at}
    if options.dry_run:
        return Answer(document | {'would_add': keys})
    confirm(options, f'Send nothing more to {", ".join(keys)}?')
    values: dict[str, Any] = {
        'reason': options.reason, 'source': options.source, 'created_by': whoever(), 'expires_at': expires_at
    }  # fmt: skip
    added = await connections.ask_postgres(partial(suppressions.add, keys=keys, **values))
    return Answer(
        document
        | {
            'added': [k for k in keys if added.get(k)],
            'changed': [k for k in keys if added.get(k) is False],
        }
    )


async def run_rm(connections: Connections, options: argparse.Namespace) -> Answer:
    """Take entries off the list."""
    keys = list(dict.fromkeys(options.addresses))
    reasons = await connections.ask_postgres(partial(suppressions.listed, keys=keys))
    would = [k for k in keys if k in reasons]
    if options.dry_run:
        return _removed(keys, would, {'suppress': 'rm', 'dry_run': True, 'would_remove': would})
    if would:
        confirm(options, f'Let {", ".join(would)} get mail again?')
    removed = await connections.ask_postgres(partial(suppressions.remove, keys=would))
    done = [k for k in keys if k in removed]
    return _removed(keys, done, {'suppress': 'rm', 'dry_run': False, 'removed': done})


def _removed(keys: list[str], done: list[str], document: Document) -> Answer:
    missing = [k for k in keys if k not in done]
    troubles = (
        [Trouble(f'not on the list: {", ".join(missing)}', 'see `python -m ops suppress ls`')]
        if missing
        else []
    )
    return Answer(document, troubles)


def confirm(options: argparse.Namespace, question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    if not confirmed(options, question):
        raise TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))


def whoever() -> str | None:
    """Return who runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, in a container
        return None


def _entries(entries: Sized) -> str:
    return '1 entry' if len(entries) == 1 else f'{len(entries)} entries'


def render(document: Document, console: Console) -> None:
    """Print the list, or what was done, counted."""
    if 'entries' in document:
        print_table(
            console,
            f'Suppressed ({len(document["entries"])} of {document["total"]})',
            ('address', 'reason', 'source', 'since', 'by', 'until'),
            (
                (e['address'], e['reason'], e['source'], e['created_at'], e['created_by'],
                 f'{cell(e["expires_at"])}{" (over)" if e["is_over"] else ""}' if e['expires_at'] else 'for good')
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
