"""The tables of workers, queues and SMTP ingresses, as several commands print them."""

from typing import Any

from rich.console import Console

from fleet.ingresses import ACCEPTED
from ops.output import print_table
from reporting.judge_ingresses import ingress_state, refused_by
from reporting.problems import Document
from reporting.wording import length, megabytes


def render_workers(document: Document, console: Console) -> None:
    """Print the table of workers."""
    workers = document['workers']
    print_table(
        console,
        'Workers',
        ('worker', 'queue', 'state', 'up', 'seen', 'sending', 'e-mails/s', 'attempts', 'memory',
         'version', 'settings'),
        (
            (w['worker'], w['queue'], worker_state(w), length(w['uptime_s']),
             f'{length(w["seen_ago_s"])} ago', w['sending'], w['emails_per_s'],
             outcomes_of(w['outcomes']), megabytes(w['rss_bytes']), w['version'], w['settings'])
            for w in workers
        ),
    )  # fmt: skip


def worker_state(worker: Document) -> str:
    """Return a worker's state with its reasons."""
    state = (
        ', '.join(worker['paused'])
        if worker['state'] == 'paused' and worker['paused']
        else str(worker['state'])
    )
    return f'{state}, of another application' if worker.get('foreign') else state


def render_queues(document: Document, console: Console) -> None:
    """Print the table of queues."""
    print_table(
        console,
        'Queues',
        ('queue', 'ready', 'deferred', 'running', 'oldest', 'served'),
        (
            (q['name'], q['ready'], q['deferred'], q['running'], length(q['oldest_ready_s']),
             'yes' if q['served'] else 'no')
            for q in document['queues']
        ),
    )  # fmt: skip


def render_ingresses(document: Document, console: Console) -> None:
    """Print the table of SMTP ingresses, where there are any."""
    if document['ingresses']:
        print_table(
            console,
            'SMTP ingresses',
            ('ingress', 'place', 'state', 'up', 'connections', 'accepted', 'refused', 'memory',
             'version'),
            (
                (i['ingress'], i['place'], ingress_state(i), length(i['uptime_s']),
                 i['connections'], i['outcomes'].get(ACCEPTED, 0), refused_by(i),
                 megabytes(i['rss_bytes']), i['version'])
                for i in document['ingresses']
            ),
        )  # fmt: skip


def outcomes_of(outcomes: dict[str, Any]) -> str:
    """Return counts by name in one cell."""
    return ', '.join(f'{name} {n}' for name, n in sorted(outcomes.items()) if n) or '-'
