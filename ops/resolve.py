"""Decide about uncertain e-mails: they did arrive, or they are given up; `retry` sends them again."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console

from db import reports
from db.transitions import give_up, mark_sent
from ops.answer import Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed, email_id
from ops.connect import Connections
from ops.output import counted, print_table, say
from ops.retry import but_not, why_not

HELP = 'decide about uncertain e-mails: mark them sent, or give them up'

# What each decision does, and which states it applies to.
DECISIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    'sent': (mark_sent, ('uncertain',)),
    'failed': (give_up, ('uncertain', 'failed')),
}
OTHERS = ('held', 'external')  # decided about elsewhere


def _is(state: Mapping[str, Any] | None) -> str:
    return f'it is {state["status"]}' if state else 'there is no such e-mail'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('ids', type=email_id, nargs='+', metavar='ID')
    parser.add_argument(
        '--as',
        dest='decision',
        choices=DECISIONS,
        required=True,
        help='sent: it arrived; failed: no further attempt',
    )
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Change what can be changed, and say why for the rest."""
    change, from_states = DECISIONS[options.decision]
    ids = list(dict.fromkeys(options.ids))
    states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    wanted = [i for i in ids if i in states and states[i]['status'] in from_states]
    left = [i for i in ids if i not in wanted]
    changed: list[int] = []
    if wanted and not options.dry_run:
        if not confirmed(
            options, f'Resolve {counted(len(wanted))} as {options.decision}{but_not(left)}?'
        ):
            raise TroubleError(
                Trouble('not confirmed, nothing was changed', 'answer y, or give --yes')
            )
        changed = await connections.ask_postgres(partial(change, email_ids=wanted))
    done = wanted if options.dry_run else changed
    unchanged = [
        {
            'id': i,
            'reason': why_not(states[i])
            if i in states and states[i]['status'] in OTHERS
            else _is(states.get(i)),
        }
        for i in ids
        if i not in done
    ]
    document: Document = {
        'dry_run': options.dry_run,
        'decision': options.decision,
        'resolved': [i for i in ids if i in done],
        'unchanged': unchanged,
    }
    troubles = (
        [Trouble(f'{counted(len(unchanged))} not changed', 'see the reasons')] if unchanged else []
    )
    return Answer(document, troubles)


def render(document: Document, console: Console) -> None:
    """Print what was done, counted, and the reasons."""
    would = 'would be ' if document['dry_run'] else ''
    say(console, f'{counted(len(document["resolved"]))} {would}resolved as {document["decision"]}.')
    if document['unchanged']:
        print_table(
            console,
            'Not changed',
            ('id', 'why'),
            ((u['id'], u['reason']) for u in document['unchanged']),
        )
