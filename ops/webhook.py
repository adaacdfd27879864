"""Webhooks: where events about e-mails are posted, what became of each, and posting them again."""

import argparse
import asyncio
import time
from functools import partial
from typing import Any

from rich.console import Console

from actions.safety import RequestError
from actions.webhooks import (
    LONGEST_DESCRIPTION,
    ReplayTimes,
    add_endpoint,
    known_endpoint,
    post_test,
    remove_endpoint,
    replay_deliveries,
    rotate_endpoint_secret,
    switch_endpoint,
)
from db.selection import read_clock
from db.webhook_capture import WebhookEvent
from db.webhook_replays import read_deliveries, read_delivery
from db.webhooks import read_webhooks
from ops.answer import Answer
from ops.arguments import add_change, add_json, add_limit, confirm, email_id
from ops.connect import Connections
from ops.mail_filter import moment, text_value
from ops.output import say
from ops.person import this_user
from ops.webhook_output import render_deliveries, render_delivery, render_webhooks
from reporting.problems import Document, Level, Problem
from reporting.wording import cell, counted

TEST_WITHIN_S, LOOK_EVERY_S = 30.0, 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(
        dest='verb', required=True,
        metavar='ls|add|rm|enable|disable|rotate|test|deliveries|delivery|replay',
    )  # fmt: skip
    add_json(verbs.add_parser('ls', help='where events go, and how that goes'))
    add = verbs.add_parser('add', help='post events to a URL from now on; prints its secret once')
    add.add_argument('url', type=text_value, metavar='URL', help='https://...')
    add.add_argument(
        '--event', dest='events', type=event_types, action='extend', default=[],
        metavar='EVENT,...', help=f'only these: {", ".join(_short(kind) for kind in WebhookEvent)}',
    )  # fmt: skip
    add.add_argument('--organization', type=text_value, metavar='ID', help='only of its e-mails')
    add.add_argument('--description', type=description, metavar='TEXT')
    rotate = verbs.add_parser('rotate', help='a new secret; the old one signs too for a day')
    test = verbs.add_parser('test', help='have a worker post an event, and tell what came of it')
    rm = verbs.add_parser('rm', help='post nothing more there')
    enable = verbs.add_parser('enable', help='post events there again')
    disable = verbs.add_parser('disable', help='no more events for now, and none for later')
    disable.add_argument('--reason', type=description, metavar='TEXT')
    for verb in (rotate, test, rm, enable, disable):
        verb.add_argument('id', type=row_id, metavar='ID', help='from `webhook ls`')
    _add_deliveries(verbs)
    replay = verbs.add_parser('replay', help='post deliveries again, with the ids that they had')
    replay.add_argument('id', type=row_id, metavar='ID', help='of the webhook')
    replay.add_argument('deliveries', type=row_id, nargs='*', metavar='DELIVERY')
    replay.add_argument('--since', type=moment, metavar='TIME', help='of the last 2h, or after it')
    replay.add_argument('--until', type=moment, metavar='TIME', help='what happened before')
    replay.add_argument(
        '--delivered',
        action='store_true',
        help='also those that were delivered, not only dead ones',
    )
    for verb in (add, rotate, rm, enable, disable, replay):
        add_change(verb)
    for verb in (add, rotate, test, rm, enable, disable, replay):
        add_json(verb)


def _add_deliveries(verbs: Any) -> None:
    deliveries = verbs.add_parser('deliveries', help='events and what became of them, newest first')
    deliveries.add_argument('id', type=row_id, nargs='?', metavar='ID', help='of one webhook')
    deliveries.add_argument('--status', choices=('waiting', 'delivered', 'dead'))
    deliveries.add_argument('--email', type=email_id, metavar='ID')
    deliveries.add_argument('--before', type=row_id, metavar='DELIVERY', help='older than this one')
    add_limit(deliveries, 50)
    delivery = verbs.add_parser('delivery', help='one of them, with what is posted')
    delivery.add_argument('id', type=row_id, metavar='DELIVERY')
    for verb in (deliveries, delivery):
        add_json(verb)


def _short(kind: WebhookEvent) -> str:
    return kind.removeprefix('email.')


def event_types(text: str) -> list[WebhookEvent]:
    """Read sent,failed or email.sent."""
    try:
        return [
            WebhookEvent(f'email.{part.strip().removeprefix("email.")}') for part in text.split(',')
        ]
    except ValueError:
        known = ', '.join(_short(kind) for kind in WebhookEvent)
        raise argparse.ArgumentTypeError(f'{text!a} is not some of {known}') from None


def description(text: str) -> str:
    """Read a line for people."""
    if not text.isprintable() or not 1 <= len(text) <= LONGEST_DESCRIPTION:
        raise argparse.ArgumentTypeError(
            f'must be one line of at most {LONGEST_DESCRIPTION} characters'
        )
    return text


def row_id(text: str) -> int:
    """Read an id."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) < 2**63):
        raise argparse.ArgumentTypeError(f'{text!r} is no id: a positive whole number')
    return int(text)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    match options.verb:
        case 'ls':
            return Answer({'webhooks': await connections.ask_postgres(read_webhooks)})
        case 'deliveries':
            reading = partial(
                read_deliveries, webhook_id=options.id, status=options.status,
                email_id=options.email, before_id=options.before, limit=options.limit,
            )  # fmt: skip
            return Answer({'deliveries': await connections.ask_postgres(reading)})
        case 'delivery':
            return Answer({'delivery': await _delivery(connections, options.id)})
        case 'test':
            return await _test(connections, options.id)
        case 'add':
            return await _add(connections, options)
        case 'replay':
            return await _replay(connections, options)
        case _:
            return await _change(connections, options)


async def _delivery(connections: Connections, delivery_id: int) -> Document:
    found = await connections.ask_postgres(partial(read_delivery, delivery_id=delivery_id))
    if found is None:
        what = f'there is no delivery {delivery_id}'
        raise RequestError(what, 'see `python -m ops webhook deliveries`')
    return found


async def _test(connections: Connections, webhook_id: int) -> Answer:
    """Wait until a worker has posted it."""
    delivery_id = await post_test(connections, webhook_id)
    deadline = time.monotonic() + TEST_WITHIN_S
    while True:
        delivery = await _delivery(connections, delivery_id)
        if delivery['attempts'] and not delivery['is_being_sent']:
            break
        if time.monotonic() > deadline:
            what = f'no worker has posted it within {TEST_WITHIN_S:g} s'
            remedy = 'see `python -m ops status`, and whether the webhook cools down'
            return Answer({'delivery': delivery}, [Problem(what, remedy)])
        await asyncio.sleep(LOOK_EVERY_S)
    problems = []
    if delivery['status'] != 'delivered':
        problems.append(Problem(f'not delivered: {delivery["error"]}', 'see to the receiver'))
    return Answer({'delivery': delivery}, problems)


async def _add(connections: Connections, options: argparse.Namespace) -> Answer:
    def ask(url: str) -> None:
        confirm(f'Post events to {url}?', yes=options.yes)

    added = await add_endpoint(
        connections, options.url, event_types=options.events, created_by=this_user() or 'unknown',
        organization_id=options.organization, description=options.description,
        dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    return Answer({
        'verb': 'add', 'dry_run': options.dry_run, 'id': added.id, 'secret': added.secret,
        'url': options.url, 'event_types': added.event_types,
    })  # fmt: skip


async def _replay(connections: Connections, options: argparse.Namespace) -> Answer:
    which: list[int] | ReplayTimes = options.deliveries
    if bool(options.deliveries) == bool(options.since):
        raise RequestError('give either deliveries or --since', 'see --help')
    if options.since:
        now = await connections.ask_postgres(read_clock)
        until = options.until.by(now) if options.until else now
        which = ReplayTimes(options.since.by(now), until, with_delivered=options.delivered)

    def ask(found: int) -> None:
        confirm(f'Post {counted(found, "delivery", "deliveries")} again?', yes=options.yes)

    replayed = await replay_deliveries(
        connections, options.id, which, dry_run=options.dry_run, confirm=ask
    )
    problems = []
    if not replayed:
        what, remedy = 'nothing is posted again', 'what waits is posted anyway'
        problems.append(Problem(what, remedy, level=Level.LOOK))
    return Answer(
        {'verb': 'replay', 'dry_run': options.dry_run, 'id': options.id, 'replayed': replayed},
        problems,
    )


async def _change(connections: Connections, options: argparse.Namespace) -> Answer:
    webhook = await known_endpoint(connections, options.id)
    dry_run, secret = options.dry_run, None
    if not dry_run:
        confirm(f'{ASKED[options.verb]} {webhook["url"]}?', yes=options.yes)
    match options.verb:
        case 'rm':
            await remove_endpoint(connections, options.id, dry_run=dry_run)
        case 'rotate':
            secret = await rotate_endpoint_secret(connections, options.id, dry_run=dry_run)
        case 'enable':
            await switch_endpoint(connections, options.id, enabled=True, dry_run=dry_run)
        case _:
            await switch_endpoint(
                connections, options.id, enabled=False, reason=options.reason, dry_run=dry_run
            )
    return Answer({
        'verb': options.verb, 'dry_run': dry_run, 'id': options.id, 'url': webhook['url'],
        'secret': secret,
    })  # fmt: skip


ASKED = {
    'rm': 'Post nothing more to',
    'rotate': 'Sign with another secret what goes to',
    'enable': 'Post events again to',
    'disable': 'Post no events for now to',
}
DONE = {
    'add': 'Added', 'rm': 'Removed', 'rotate': 'Changed the secret of', 'enable': 'Enabled',
    'disable': 'Disabled',
}  # fmt: skip


def render(document: Document, console: Console) -> None:
    """Print a list, or what was done."""
    if 'webhooks' in document:
        render_webhooks(document['webhooks'], console)
    elif 'deliveries' in document:
        render_deliveries(document['deliveries'], console)
    elif 'delivery' in document:
        render_delivery(document['delivery'], console)
    elif document['verb'] == 'replay':
        did = 'Would be posted again' if document['dry_run'] else 'Posted again'
        say(console, f'{did}: {counted(document["replayed"], "delivery", "deliveries")}.')
    else:
        _render_change(document, console)


def _render_change(document: Document, console: Console) -> None:
    if document.get('secret'):
        say(console, document['secret'])
        say(console, 'The secret of its signatures. It is not shown again.')
    if document['dry_run']:
        say(console, f'Would be: {DONE[document["verb"]].lower()} {cell(document["url"])}.')
        say(console, 'Nothing was changed.')
    else:
        say(console, f'{DONE[document["verb"]]} webhook {document["id"]}: {cell(document["url"])}.')
