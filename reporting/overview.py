"""The fleet and its mail at a glance, as plain values: what `ops status` and the web page show."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import asyncpg
from arq.connections import ArqRedis

from db import checkup, reports
from db.identity import is_other, read_identity
from db.switches import Switch, read_switches
from db.webhook_figures import read_webhook_figures
from engine.queues import read_queues
from fleet.ingresses import read_ingresses
from fleet.registry import WorkerRecord, read_served_queues, read_workers
from reporting.problems import Document

STORED = (
    'seen_workers', 'outbox', 'duties', 'services', 'switches', 'paused_due', 'poisoned',
    'failures', 'webhooks', 'database',
)  # fmt: skip
FLEET = ('workers', 'queues', 'ingresses')
MOST_REASONS = 10  # why attempts failed, the commonest first


async def read_fleet(redis: ArqRedis, most_queues: int | None = None) -> Document:
    """Return workers, queues and SMTP ingresses; a queue is served when somebody polls it.

    Args:
        most_queues: see engine.queues.read_queues.
    """
    workers = await read_workers(redis)
    queues = await read_queues(
        redis, also=sorted({worker.queue for worker in workers}), most=most_queues
    )
    served = await read_served_queues(redis, workers, [queue.name for queue in queues])
    return {
        'workers': as_documents(workers),
        'queues': [asdict(queue) | {'served': queue.name in served} for queue in queues],
        'ingresses': [asdict(record) for record in await read_ingresses(redis)],
    }


def as_documents(records: Sequence[WorkerRecord]) -> list[Document]:
    """Return records for a document.

    A record has times in seconds since 1970, a document in ISO 8601.
    """
    # asdict would copy each of hundreds of e-mails: five times as long.
    reported = [
        {part.name: getattr(record, part.name) for part in fields(record)} for record in records
    ]
    for worker in reported:
        for part in ('emails', 'jobs'):
            worker[part] = [with_time(item) for item in worker[part]]
    return reported


def with_time(item: Any) -> Any:
    """Make started_at a time; what is none stays as it was."""
    if isinstance(item, dict) and isinstance(seconds := item.get('started_at'), int | float):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return item | {'started_at': datetime.fromtimestamp(seconds, UTC)}
    return item


def mark_foreign(processes: Iterable[Document], database: str | None) -> None:
    """Say of each worker or ingress whether its database is another than this one.

    None is unknown.
    """
    for process in processes:
        process['foreign'] = is_other(process['database'], database)


async def read_stored(pool: asyncpg.Pool) -> Document:
    """Return what PostgreSQL knows."""
    return {
        'seen_workers': await reports.read_seen_workers(pool),
        'outbox': await reports.read_outbox(pool),
        'duties': await reports.read_duties(pool),
        'services': await reports.read_services(pool),
        'switches': as_rows(await read_switches(pool)),
        'paused_due': await reports.read_paused_due(pool),
        'poisoned': await checkup.count_poisoned(pool),
        'failures': await reports.count_failures(pool, MOST_REASONS),
        'webhooks': await read_webhook_figures(pool),
        'database': await read_identity(pool),
    }


def as_rows(switches: Iterable[Switch]) -> list[Document]:
    """Return switches for a document."""
    return [asdict(s) | {'kind': s.kind.value} for s in switches]
