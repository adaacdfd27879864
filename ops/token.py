"""Tokens of the HTTP API: create, list, revoke."""

import argparse
import re
from datetime import datetime
from functools import partial

from rich.console import Console

from actions.safety import RequestError
from actions.tokens import ApiScope, create_token, revoke_token_named
from db.api_tokens import read_tokens
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm, duration_s
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table, say
from ops.person import this_person
from reporting.problems import Document
from reporting.wording import cell, counted

NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='create|ls|revoke')
    create = verbs.add_parser('create', help='make a token, and print it this once')
    create.add_argument('name', type=token_name, metavar='NAME', help='whose it is, for the audit')
    create.add_argument(
        '--scope', type=scopes, action='extend', required=True, metavar='SCOPE,...',
        help=f'what it is for: some of {", ".join(ApiScope)}',
    )  # fmt: skip
    create.add_argument(
        '--organization', type=organization, metavar='ID',
        help='all that it sees and sends is of this organization_id',
    )  # fmt: skip
    create.add_argument(
        '--expires', dest='expires_in_s', type=lifetime_s, metavar='TIME',
        help='for how long: 12h, 90d; without it, until it is revoked',
    )  # fmt: skip
    add_json(create)
    ls = verbs.add_parser('ls', help='those there are; nobody can print a token again')
    ls.add_argument('--all', action='store_true', help='revoked ones too')
    add_json(ls)
    revoke = verbs.add_parser('revoke', help='refused from now on, within 2 s')
    revoke.add_argument('name', type=token_name, metavar='NAME')
    add_change(revoke)
    add_json(revoke)


def token_name(text: str) -> str:
    """Read a name."""
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f'{text!a} is no name: letters, digits, dots, dashes, underscores; at most 100'
        )
    return text


def scopes(text: str) -> list[ApiScope]:
    """Read send,read,operate."""
    try:
        return [ApiScope(part.strip()) for part in dict.fromkeys(text.split(','))]
    except ValueError:
        known = ', '.join(ApiScope)
        raise argparse.ArgumentTypeError(f'{text!a} is not some of {known}') from None


def organization(text: str) -> str:
    """Read the organization_id of rows, a number or whatever the application has there."""
    if len(text_value(text)) > 100 or not text.isprintable():
        raise argparse.ArgumentTypeError('must be one line of at most 100 characters')
    return text


def lifetime_s(text: str) -> float:
    """Read 12h or 90d."""
    seconds = duration_s(text)
    if not 0 < seconds <= 36525 * 86400:
        raise argparse.ArgumentTypeError(f'{text!r} is no time from 1s to 36525d')
    return seconds


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    if options.verb == 'ls':
        tokens = await connections.ask_postgres(partial(read_tokens, with_revoked=options.all))
        return Answer({'verb': 'ls', 'tokens': tokens})
    if options.verb == 'create':
        created = await create_token(
            connections, options.name, list(dict.fromkeys(options.scope)), by=this_person(),
            organization_id=options.organization, expires_in_s=options.expires_in_s,
        )  # fmt: skip
        return Answer({
            'token': created.token, 'verb': 'create', 'id': created.id, 'name': options.name,
            'scopes': options.scope, 'organization_id': options.organization,
            'expires_at': created.expires_at,
        })  # fmt: skip
    return await _revoke(connections, options.name, dry_run=options.dry_run, yes=options.yes)


async def _revoke(connections: Connections, name: str, *, dry_run: bool, yes: bool) -> Answer:
    document: Document = {'verb': 'revoke', 'name': name, 'dry_run': dry_run}
    if not dry_run:
        confirm(f'Refuse the token {name} from now on?', yes=yes)
        return Answer(
            document | {'id': await revoke_token_named(connections, name, by=this_person())}
        )
    tokens = await connections.ask_postgres(partial(read_tokens, with_revoked=False))
    found = next((token['id'] for token in tokens if token['name'] == name), None)
    if found is None:
        raise RequestError(f'there is no token {name!r} in use', 'see `python -m ops token ls`')
    return Answer(document | {'id': found})


def render(document: Document, console: Console) -> None:
    """Print the token, the list, or what was done."""
    if document['verb'] == 'create':
        until = f' until {cell(document["expires_at"])}' if document['expires_at'] else ''
        whose = f', organization {document["organization_id"]}' * bool(document['organization_id'])
        say(console, document['token'])
        say(console, f'For {", ".join(document["scopes"])}{whose}{until}. It is not shown again.')
    elif document['verb'] == 'revoke':
        did = 'Would revoke' if document['dry_run'] else 'Revoked'
        say(console, f'{did} {document["name"]}.')
    else:
        print_table(
            console,
            counted(len(document['tokens']), 'token'),
            ('name', 'scopes', 'organization', 'created', 'by', 'last used', 'until'),
            (
                (t['name'], ', '.join(t['scopes']), t['organization_id'], t['created_at'],
                 t['created_by'], t['last_used_at'], _end(t))
                for t in document['tokens']
            ),
        )  # fmt: skip


def _end(token: Document) -> str | datetime | None:
    if token['revoked_at']:
        return f'revoked {cell(token["revoked_at"])}'
    if token['is_expired']:
        return f'{cell(token["expires_at"])} (over)'
    end: datetime | None = token['expires_at']
    return end
