"""Which domains waiting mail goes to, and how old it is: Postfix's qshape for the outbox.

Behind them, the domains that workers leave alone.
"""

import argparse
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.table import Table

from db.reports.ages import BUCKETS_MIN, read_ages
from db.states import OPEN
from ops.answer import Answer
from ops.arguments import add_json, add_limit
from ops.connect import Connections
from ops.output import say
from reporting.live import read_living
from reporting.problems import Document, Problem
from reporting.servers import answer_or_note
from reporting.slow_domains import left_alone
from reporting.wording import cell, counted, length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        '--status',
        choices=[status.value for status in OPEN],
        help='only these: failed is what Postfix calls deferred',
    )
    add_limit(parser, 20)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Count it; old mail is no problem of this command's, see `status`."""
    statuses = OPEN if options.status is None else (options.status,)
    total, rows, domains = await connections.ask_postgres(
        partial(read_ages, statuses=statuses, limit=options.limit)
    )
    problems: list[Problem] = []
    workers = await answer_or_note(connections.ask_redis(read_living), problems)
    return Answer({
        'minutes': list(BUCKETS_MIN),
        'total': asdict(total),
        'domains': domains,
        'rows': [asdict(row) for row in rows],
        'left_alone': None if workers is None else [asdict(s) for s in left_alone(workers)],
    }, problems)  # fmt: skip


def render(document: Document, console: Console) -> None:
    """Print the table: columns are minutes since the e-mail was queued."""
    table = Table(box=None, pad_edge=False)
    table.add_column('')
    for name in ('T', *map(str, document['minutes']), f'{document["minutes"][-1]}+'):
        table.add_column(name, justify='right')
    for row in (document['total'], *document['rows']):
        table.add_row(cell(row['domain']), str(row['total']), *map(str, row['by_age']))
    console.print(table)
    if document['domains'] > len(document['rows']):
        more = counted(document['domains'] - len(document['rows']), 'more domain')
        say(console, f'{more}; --limit shows all.')
    for slow in document['left_alone'] or ():
        say(
            console,
            f'{cell(slow["domain"])} is left alone for {length(slow["left_s"])} by '
            f'{counted(slow["workers"], "worker")}: {cell(slow["reason"])}',
        )
