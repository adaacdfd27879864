"""The fleet as several commands show it: living workers, queues, and whether anybody serves them."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from fleet.queues import QUEUES, read_queues
from fleet.registry import WorkerRecord, read_served_queues, read_workers
from ops.answer import NOBODY_REPLIED, Document, Trouble
from ops.output import length, megabytes, print_table

SETTINGS_FOR = {
    'arq:queue': 'worker.WorkerSettings',
    'high_priority': 'worker.HighPriority',
    'low_priority': 'worker.LowPriority',
}


async def read_fleet(redis: ArqRedis) -> Document:
    """Return workers and queues; a queue is served when somebody polls it."""
    workers = await read_workers(redis)
    queues = await read_queues(redis, also=sorted({worker.queue for worker in workers}))
    served = await read_served_queues(redis, workers, [queue.name for queue in queues])
    return {
        'workers': as_documents(workers),
        'queues': [asdict(queue) | {'served': queue.name in served} for queue in queues],
    }


def as_documents(records: Sequence[WorkerRecord]) -> list[Document]:
    """Return records for a document; a worker tells times in s since 1970, a document in ISO 8601."""
    told = [asdict(record) for record in records]
    for worker in told:
        for part in ('emails', 'jobs'):
            worker[part] = [with_time(item) for item in worker[part]]
    return told


def with_time(item: Any) -> Any:
    """Make started_at a time; what is none stays as it was told."""
    if isinstance(item, dict) and isinstance(seconds := item.get('started_at'), int | float):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return item | {'started_at': datetime.fromtimestamp(seconds, UTC)}
    return item


async def has_worker(redis: ArqRedis) -> bool:
    """Whether any worker replies; cheaper than read_fleet."""
    return bool(await read_workers(redis)) or bool(await read_served_queues(redis, (), QUEUES))


def is_alive(fleet: Document) -> bool:
    """Whether any worker replied, by its record or by arq's health key."""
    return bool(fleet['workers']) or any(queue['served'] for queue in fleet['queues'])


def fleet_troubles(fleet: Document) -> list[Trouble]:
    """Judge workers and queues."""
    return queue_troubles(fleet) if is_alive(fleet) else [NOBODY_REPLIED]


def queue_troubles(fleet: Document) -> list[Trouble]:
    """Name the queues whose jobs nobody will run."""
    return [
        Trouble(
            f'nobody serves the queue {queue["name"]}, which has {queue["ready"] + queue["deferred"]} jobs',
            f'start `arq {SETTINGS_FOR[queue["name"]]}`'
            if queue['name'] in SETTINGS_FOR
            else 'start a worker for it, or see who puts jobs there',
        )
        for queue in fleet['queues']
        if not queue['served'] and queue['ready'] + queue['deferred']
    ]


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
