"""E-mails that are held for an operator: list and count them, release them or cancel them."""

import argparse
from dataclasses import asdict
from functools import partial

from rich.console import Console

from actions.held import (
    DecidedHeld,
    HeldDecision,
    HeldPlan,
    decide_held_ids,
    decide_held_selected,
)
from actions.safety import RequestError
from db import held
from mail_outbox.states import Status
from ops.answer import Answer, unchanged_problems
from ops.arguments import add_change, add_json, add_limit, but_not, confirm, email_id
from ops.connect import Connections
from ops.mail_filter import add_filters, filter_of
from ops.output import print_table, print_unchanged, say
from reporting.mail_filter import MailFilter, described_selection, make_selection
from reporting.problems import Document
from reporting.wording import counted, hide_recipient, length

AGES = ('within_a_day', 'within_a_week', 'within_a_month', 'older')
# What each decision is called before and after, and asked.
WORDS = {
    'release': ('Would release', 'Released', 'Send'),
    'cancel': ('Would cancel', 'Cancelled', 'Cancel'),
}


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
    for name, help_text in (
        ('release', 'make them due now: they are sent at once'),
        ('cancel', 'they are never sent; `retry` takes it back'),
    ):
        deciding = actions.add_parser(name, help=help_text)
        deciding.add_argument('ids', type=email_id, nargs='*', metavar='ID')
        deciding.add_argument('--all', action='store_true', help='everything that is held')
        add_filters(deciding)
        add_change(deciding)
        add_json(deciding)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """List, or decide about ids, or about what the conditions say."""
    conditions = filter_of(vars(options))
    if options.action == 'ls':
        return await _list(
            connections, conditions, options.limit, show_recipients=options.show_recipients
        )
    if sum((bool(options.ids), options.all, not conditions.is_empty)) != 1:
        what = 'give ids, or --all, or conditions'
        raise RequestError(what, f'see `python -m ops held {options.action} --help`')

    def ask(plan: HeldPlan) -> None:
        emails = counted(plan.emails, 'held e-mail')
        question = f'{WORDS[plan.decision][2]} {emails}{but_not(plan.left)}?'
        confirm(question, yes=options.yes)

    decision = HeldDecision(options.action)
    expiry_hours = connections.settings.email_expiry_hours
    if options.ids:
        return _answer(
            await decide_held_ids(
                connections, options.ids, decision, expiry_hours=expiry_hours,
                dry_run=options.dry_run, confirm=ask,
            )
        )  # fmt: skip
    return _answer(
        await decide_held_selected(
            connections, conditions, decision, expiry_hours=expiry_hours,
            dry_run=options.dry_run, confirm=ask,
        )
    )  # fmt: skip


async def _list(
    connections: Connections, conditions: MailFilter, limit: int, *, show_recipients: bool
) -> Answer:
    """Count what is held, and list the longest due; it is no problem of the system's."""
    selection = await make_selection(connections, conditions, (Status.HELD,))
    by_type = await connections.ask_postgres(partial(held.count_held, selection=selection))
    emails = await connections.ask_postgres(
        partial(held.list_held, selection=selection, limit=limit)
    )
    for email in emails:
        if not show_recipients:
            email['recipient'] = hide_recipient(email['recipient'])
    return Answer({
        'action': 'ls',
        'selection': described_selection(selection),
        'held': sum(row['emails'] for row in by_type),
        'by_age': {age: sum(row[age] for row in by_type) for age in AGES},
        'by_type': by_type,
        'emails': emails,
    })  # fmt: skip


def _answer(decided: DecidedHeld) -> Answer:
    document: Document = {
        'action': decided.decision.value,
        'dry_run': decided.changed is None,
        'matched': decided.matched,
    }
    fault = [decided.fault] if decided.fault else []
    if decided.selection is None:
        if decided.changed is not None:
            document['changed'] = decided.changed
        unchanged = [asdict(email) for email in decided.unchanged]
        document |= {'ids': decided.ids, 'unchanged': unchanged}
        problems = [*fault, *unchanged_problems(unchanged), *decided.problems]
        return Answer(document, problems, email_ids=decided.ids)
    document |= {
        'selection': described_selection(decided.selection),
        'by_type': decided.by_type,
    }
    if decided.changed is not None:
        document['changed'] = decided.changed
    return Answer(document, [*fault, *decided.problems], email_ids=decided.ids)


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
    print_unchanged(console, document.get('unchanged', ()))


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
            (e['id'], e['recipient'], e['email_type'], e['due_at'], length(e['due_s']),
             e['created_at'], e['expires_at'])
            for e in document['emails']
        ),
    )  # fmt: skip
    say(
        console,
        '`python -m ops held release ID` sends one, `held cancel ID` cancels it; '
        '--all and conditions: many.',
    )
