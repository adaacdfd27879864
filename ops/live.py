"""The fleet as several commands show it: living workers, queues, and whether anybody serves them."""

import contextlib
from collections.abc import Sequence
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError
from rich.console import Console

from engine.queues import QUEUES
from fleet.channel import Asked, ask
from fleet.registry import WorkerRecord, read_served_queues, read_told, read_workers
from ops.answer import Document
from ops.output import length, megabytes, print_table
from reporting import overview
from reporting.overview import as_documents
from reporting.problems import is_alive, queue_troubles

__all__ = [
    'as_documents',
    'ask_living',
    'has_health_key',
    'has_worker',
    'is_alive',
    'outcomes_of',
    'queue_troubles',
    'read_fleet',
    'read_living',
    'render_queues',
    'render_workers',
    'state_of',
    'told_by',
    'with_workers',
]


async def ask_living(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the workers as they are this moment; those that do not reply in time, as they last registered."""
    known = {record.worker: record for record in await read_workers(redis)}
    with contextlib.suppress(NoPermissionError):  # a user that may look, but not ask
        known |= {record.worker: record for record in told_by(await ask(redis, 'describe'))}
    return [known[name] for name in sorted(known)]


def told_by(asked: Asked) -> list[WorkerRecord]:
    """Return what workers that were asked to describe themselves told."""
    told = (
        read_told({'worker': reply['worker'], **reply['done']})
        for reply in asked.replies
        if 'done' in reply
    )
    return [record for record in told if record is not None]


async def read_living(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the registered workers. When none is, ask: in a Redis that was emptied they register 5 s later."""
    return await read_workers(redis) or await ask_living(redis)


async def has_worker(redis: ArqRedis) -> bool:
    """Whether any worker replies; cheaper than read_fleet."""
    return bool(await read_living(redis)) or await has_health_key(redis)


async def has_health_key(redis: ArqRedis) -> bool:
    """Whether a worker of arq's own, which does not register, polls one of our queues."""
    return bool(await read_served_queues(redis, (), QUEUES))


async def read_fleet(redis: ArqRedis) -> Document:
    """Return workers and queues, see reporting.overview.read_fleet; when none is registered, as they reply."""
    fleet = await overview.read_fleet(redis)
    return fleet if fleet['workers'] else with_workers(fleet, await ask_living(redis))


def with_workers(fleet: Document, workers: Sequence[WorkerRecord]) -> Document:
    """Exchange the workers; the queues that they serve are served."""
    served = {worker.queue for worker in workers}
    return {
        'workers': as_documents(workers),
        'queues': [
            queue | {'served': queue['served'] or queue['name'] in served}
            for queue in fleet['queues']
        ],
    }


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


def outcomes_of(outcomes: dict[str, Any]) -> str:
    """Return counts by name in one cell."""
    return ', '.join(f'{name} {n}' for name, n in sorted(outcomes.items()) if n) or '-'
