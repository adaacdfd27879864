"""The DNS records that our domains need, and how those are that DNS has."""

import argparse
import asyncio
import socket
from dataclasses import asdict
from ipaddress import ip_address

from rich.console import Console

from configuration.dkim_keys import load_key
from mail.dns_records import DnsRecord, RecordState, make_resolver, read_records
from mail.signing.keys import SigningKey
from mail_outbox.envelope import InvalidEmailError, ascii_address
from ops.answer import Answer
from ops.arguments import add_json
from ops.connect import Connections
from ops.output import print_table, say
from reporting.problems import Document, Level, Problem
from settings import Settings

LOOPBACK = frozenset({'localhost', '127.0.0.1', '::1'})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'domains', type=domain, nargs='*', metavar='DOMAIN',
        help='by default those of SMTP_FROM_EMAIL and DKIM_KEYS',
    )  # fmt: skip
    parser.add_argument(
        '--nameserver', type=nameserver, metavar='IP[:PORT]',
        help="ask this server instead of the machine's own, such as the domain's",
    )  # fmt: skip
    add_json(parser)


def domain(text: str) -> str:
    """Read a domain."""
    try:
        return ascii_address(f'x@{text}').removeprefix('x@').lower()
    except InvalidEmailError as error:
        raise argparse.ArgumentTypeError(f'{text!a} is no domain') from error


def nameserver(text: str) -> tuple[str, int]:
    """Read an IP address, with a port or without: 192.0.2.1:5353, [2001:db8::1]:5353."""
    host, colon, port = text.rpartition(':')
    if not colon or (':' in host and not host.endswith(']')):
        host, port = text, '53'
    try:
        return str(ip_address(host.removeprefix('[').removesuffix(']'))), int(port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!a} is no IP address') from error


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask DNS for each domain."""
    settings, problems = connections.settings, list[Problem]()
    keys = _keys(settings, problems)
    own = (settings.smtp_from_email.rpartition('@')[2].lower(), *(key.domain for key in keys))
    here = socket.getfqdn()  # a relay on this machine sends from its address
    relays = [here if r.host in LOOPBACK else r.host for r in settings.all_relays]
    server = options.nameserver or (None, 53)
    resolver = make_resolver(*server)
    found = await asyncio.gather(*(
        read_records(resolver, name, [key for key in keys if key.domain == name], relays)
        for name in dict.fromkeys(options.domains or own)
    ))  # fmt: skip
    records = [record for of_domain in found for record in of_domain]
    problems += [problem for record in records if (problem := _problem(record))]
    return Answer({'records': [asdict(record) for record in records]}, problems)


def _keys(settings: Settings, problems: list[Problem]) -> list[SigningKey]:
    """Read the keys; whoever runs this may not be allowed to."""
    keys = []
    for entry in settings.dkim_keys:
        try:
            keys.append(load_key(entry))
        except ValueError as error:
            problems.append(Problem(str(error), 'see docs/mail.md; run it as who may read it'))
    return keys


def _problem(record: DnsRecord) -> Problem | None:
    what = f'{record.purpose}: {record.name} {record.kind}'
    match record.state:
        case RecordState.FINE:
            return None
        case RecordState.UNKNOWN:
            return Problem(
                f'{what}: DNS does not answer', 'nothing is known of it; ask again',
                level=Level.LOOK,
            )  # fmt: skip
        case _:
            why = f': {record.why}' if record.why else ''
            return Problem(f'{what} is {record.state}{why}', f'it should be: {record.wanted}')


def _state_of(record: Document) -> str:
    is_note = record['state'] == RecordState.FINE and record['why']
    return f'{record["state"]}: {record["why"]}' if is_note else str(record['state'])


def render(document: Document, console: Console) -> None:
    """Print the table, then each record as it goes into a zone."""
    print_table(
        console,
        'DNS',
        ('for', 'name', 'type', 'is', 'found'),
        (
            (r['purpose'], r['name'], r['kind'], _state_of(r), '; '.join(r['found'] or ()))
            for r in document['records']
        ),
    )
    say(console, 'As they should be:')
    for record in document['records']:
        say(console, f'{record["name"]}. {record["kind"]} {record["wanted"]}')
