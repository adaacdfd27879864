"""The fleet as several commands show it: living workers, queues, and whether anybody serves them."""

from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from fleet.overview import as_documents, read_fleet
from fleet.queues import QUEUES
from fleet.registry import read_served_queues, read_workers
from fleet.troubles import fleet_troubles, is_alive, queue_troubles
from ops.answer import Document
from ops.output import length, megabytes, print_table

__all__ = [
    'as_documents',
    'fleet_troubles',
    'has_worker',
    'is_alive',
    'outcomes_of',
    'queue_troubles',
    'read_fleet',
    'render_queues',
    'render_workers',
    'state_of',
]


async def has_worker(redis: ArqRedis) -> bool:
    """Whether any worker replies; cheaper than read_fleet."""
    return bool(await read_workers(redis)) or bool(await read_served_queues(redis, (), QUEUES))


def render_workers(document: Document, console: Console) -> None:
    """Print the table of workers."""
    workers = document['workers']
    print_table(
        console,
        'Workers',
        ('worker', 'queue', 'state', 'up', 'seen', 'sending', 'e-mails/s', 'attempts', 'memory', 'version', 'settings'),
        (
            (w['worker'], w['queue'], state_of(w), length(w['uptime_s']), f'{length(w["seen_ago_s"])} ago',
             w['sending'], w['emails_per_s'], outcomes_of(w['outcomes']), megabytes(w['rss_bytes']), w['version'],
             w['settings'])
            for w in workers
        ),
    )  # fmt: skip


def state_of(worker: Document) -> str:
    """Return a worker's state with its reasons."""
    return ', '.join(worker['paused']) if worker['state'] == 'paused' and worker['paused'] else str(worker['state'])


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


def outcomes_of(outcomes: dict[str, Any]) -> str:
    """Return counts by name in one cell."""
    return ', '.join(f'{name} {n}' for name, n in sorted(outcomes.items()) if n) or '-'
