"""E-mails that are held for an operator: list and count them, release them or cancel them."""

import argparse
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg
from rich.console import Console

from db import held, reports
from db.selection import Selection
from mail_outbox.states import Status
from mail_outbox.wake import notify
from ops.answer import USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, add_limit, confirmed, email_id
from ops.connect import Connections, attempt
from ops.mail_filter import add_filters, described, has_filters, make_selection
from ops.output import counted, hide_recipient, length, print_table, say
from ops.retry import but_not, idle_troubles, not_confirmed, why_not

HELP = 'e-mails that are held until you decide: list them, release them to be sent, or cancel them'

BATCH = 500
AGES = ('within_a_day', 'within_a_week', 'within_a_month', 'older')
# What each decision is called before and after, and asked.
WORDS = {
    'release': ('Would release', 'Released', 'Send'),
    'cancel': ('Would cancel', 'Cancelled', 'Cancel'),
}

Change = Callable[[asyncpg.Pool, Sequence[int]], Awaitable[list[int]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ls|release|cancel')
    listing = actions.add_parser('ls', help='count them by type and age, and list the oldest')
    add_filters(listing)
    listing.add_argument(
        '--show-recipients', action='store_true', help='whole addresses instead of domains'
    )
    add_limit(listing, 20)
    add_json(listing)
    for name, told in (
        ('release', 'make them due now: they are sent at once'),
        ('cancel', 'they are never sent; `retry` takes it back'),
    ):
        deciding = actions.add_parser(name, help=told)
        deciding.add_argument('ids', type=email_id, nargs='*', metavar='ID')
        deciding.add_argument('--all', action='store_true', help='everything that is held')
        add_filters(deciding)
        add_change(deciding)
        add_json(deciding)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """List, or decide about ids, or about what the conditions say."""
    if options.action == 'ls':
        return await list_held(connections, options)
    ways = (bool(options.ids), options.all, has_filters(options))
    if sum(ways) != 1:
        what = 'give ids, or --all, or conditions'
        raise TroubleError(
            Trouble(what, f'see `python -m ops held {options.action} --help`', exit_status=USAGE)
        )
    change: Change = held.cancel
    if options.action == 'release':
        change = partial(held.release, expiry_hours=connections.settings.email_expiry_hours)
    answer = await (decide_ids if options.ids else decide_selected)(connections, options, change)
    if options.action == 'release' and (changed := answer.document.get('changed')):
        await attempt(connections.ask_postgres(notify), answer.troubles)
        answer.troubles += await idle_troubles(connections, range(changed))
    return answer


async def list_held(connections: Connections, options: argparse.Namespace) -> Answer:
    """Count what is held, and list the longest due; that it is there is no trouble of the system's."""
    selection = await make_selection(connections, options, (Status.HELD,))
    by_type = await connections.ask_postgres(partial(held.count_held, selection=selection))
    emails = await connections.ask_postgres(
        partial(held.list_held, selection=selection, limit=options.limit)
    )
    for email in emails:
        if not options.show_recipients:
            email['recipient'] = hide_recipient(email['recipient'])
    return Answer({
        'action': 'ls',
        'selection': described(selection),
        'held': sum(row['emails'] for row in by_type),
        'by_age': {age: sum(row[age] for row in by_type) for age in AGES},
        'by_type': by_type,
        'emails': emails,
    })  # fmt: skip


async def decide_ids(
    connections: Connections, options: argparse.Namespace, change: Change
) -> Answer:
    """Change these, and say why not for the others."""
    ids = list(dict.fromkeys(options.ids))
    states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    wanted = [i for i in ids if i in states and states[i]['status'] == Status.HELD]
    document = _document(options, matched=len(wanted))
    troubles: list[Trouble] = []
    done = set(wanted)
    if not options.dry_run:
        left = [i for i in ids if i not in done]
        if wanted and not confirmed(options, _question(options, len(wanted)) + f'{but_not(left)}?'):
            raise not_confirmed()
        done = set(await _in_batches(connections, wanted, change, troubles))
        document['changed'] = len(done)
    if len(done) < len(wanted):
        states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    unchanged = [{'id': i, 'reason': _why_not(states.get(i))} for i in ids if i not in done]
    if unchanged:
        troubles.append(Trouble(f'{counted(len(unchanged))} not changed', 'see the reasons'))
    return Answer(
        document | {'ids': [i for i in ids if i in done], 'unchanged': unchanged}, troubles
    )


def _why_not(state: dict[str, Any] | None) -> str:
    if state is not None and state['status'] in ('failed', 'uncertain', 'expired', 'cancelled'):
        return f'it is not held, but {state["status"]}: see `python -m ops explain {state["id"]}`'
    return why_not(state)


async def decide_selected(
    connections: Connections, options: argparse.Namespace, change: Change
) -> Answer:
    """Count what fits, ask, and change it in batches, each committed by itself."""
    selection = await make_selection(connections, options, (Status.HELD,))
    by_type = await connections.ask_postgres(partial(held.count_held, selection=selection))
    matched = sum(row['emails'] for row in by_type)
    document = _document(options, matched=matched) | {
        'selection': described(selection),
        'by_type': by_type,
    }
    if options.dry_run:
        return Answer(document)
    if matched and not confirmed(options, f'{_question(options, matched)}?'):
        raise not_confirmed()
    troubles: list[Trouble] = []
    changed = await _change_selected(connections, selection, change, troubles) if matched else 0
    return Answer(document | {'changed': changed}, troubles)


async def _change_selected(
    connections: Connections, selection: Selection, change: Change, troubles: list[Trouble]
) -> int:
    """Change everything that fits, by its ids, so that no row is looked at twice. Returns how many were changed."""
    changed, last_id = 0, 0
    while True:
        asking = partial(held.next_held, selection=selection, after_id=last_id, limit=BATCH)
        ids = await attempt(connections.ask_postgres(asking), troubles)
        if not ids:
            return changed
        changed += len(await _in_batches(connections, ids, change, troubles))
        last_id = ids[-1]
        if troubles:
            return changed


async def _in_batches(
    connections: Connections, ids: Sequence[int], change: Change, troubles: list[Trouble]
) -> list[int]:
    """Change e-mails; a batch that fails ends it, and what was changed stays so."""
    changed: list[int] = []
    for start in range(0, len(ids), BATCH):
        changing = partial(change, email_ids=ids[start : start + BATCH])  # type: ignore[call-arg]
        batch = await attempt(connections.ask_postgres(changing), troubles)
        if batch is None:
            break
        changed += batch
    return changed


def _document(options: argparse.Namespace, *, matched: int) -> Document:
    return {'action': options.action, 'dry_run': options.dry_run, 'matched': matched}


def _question(options: argparse.Namespace, emails: int) -> str:
    return f'{WORDS[options.action][2]} {counted(emails, "held e-mail")}'


def render(document: Document, console: Console) -> None:
    """Print the counts and the oldest, or what was done."""
    if document['action'] == 'ls':
        _render_list(document, console)
        return
    would, did, _ = WORDS[document['action']]
    if document['dry_run']:
        if document.get('by_type'):
            _render_types(document, console)
        say(console, f'{would} {counted(document["matched"], "held e-mail")}; nothing was changed.')
    else:
        say(console, f'{did} {counted(document["changed"], "held e-mail")}.')
        if (left := document['matched'] - document['changed']) and 'by_type' in document:
            say(console, f'{counted(left)} left alone: changed meanwhile.')
    if document.get('unchanged'):
        print_table(
            console,
            'Not changed',
            ('id', 'why'),
            ((u['id'], u['reason']) for u in document['unchanged']),
        )


def _render_types(document: Document, console: Console) -> None:
    print_table(
        console,
        'Held e-mails by type, and by how long ago they were due',
        (
            'type',
            'e-mails',
            '< 1 d',
            '1 to 7 d',
            '7 to 30 d',
            'older',
            'past expiry',
            'oldest',
            'newest',
        ),
        (
            (
                t['email_type'],
                t['emails'],
                *(t[age] for age in AGES),
                t['past_expiry'],
                t['oldest_at'],
                t['newest_at'],
            )
            for t in document['by_type']
        ),
    )


def _render_list(document: Document, console: Console) -> None:
    if not document['held']:
        say(console, 'No e-mail is held.')
        return
    _render_types(document, console)
    print_table(
        console,
        f'The oldest {len(document["emails"])} of {document["held"]}',
        ('id', 'recipient', 'type', 'was due', 'ago', 'created', 'expires'),
        (
            (e['id'], e['recipient'], e['email_type'], e['due_at'], length(e['due_s']), e['created_at'],
             e['expires_at'])
            for e in document['emails']
        ),
    )  # fmt: skip
    say(
        console,
        '`python -m ops held release ID` sends one, `held cancel ID` cancels it; --all and conditions: many.',
    )
