"""What the page asks, and whom. An answer of a source that is unreachable or slow is missing."""

from dataclasses import asdict
from typing import Any

import asyncpg
from arq.connections import ArqRedis

from db import checkup, reports
from db.feedback import count_feedback
from db.identity import read_identity
from db.quotas import read_quotas
from db.switches import read_switches
from db.webhook_figures import read_webhook_figures
from fleet.ingresses import read_ingresses
from fleet.registry import read_workers
from reporting.overview import MOST_REASONS, as_documents, as_rows, read_fleet
from reporting.problems import Document
from web.watch import Questions, Source

MOST_QUOTAS = 50  # the fullest
MOST_QUEUES = 200  # of others than ours: anything in Redis that looks like one is a time series


async def _read_switches(pool: asyncpg.Pool) -> list[Document]:
    return as_rows(await read_switches(pool))


async def _count_failures(pool: asyncpg.Pool) -> list[dict[str, Any]]:
    return await reports.count_failures(pool, MOST_REASONS)


async def _read_quotas(pool: asyncpg.Pool) -> list[dict[str, Any]]:
    _, quotas = await read_quotas(pool, limit=MOST_QUOTAS)
    return quotas


async def _read_workers(redis: ArqRedis) -> list[Document]:
    return as_documents(await read_workers(redis))


async def _read_queues(redis: ArqRedis) -> list[Document]:
    queues: list[Document] = (await read_fleet(redis, MOST_QUEUES))['queues']
    return queues


async def _read_ingresses(redis: ArqRedis) -> list[Document]:
    return [asdict(record) for record in await read_ingresses(redis)]


async def _ask_nothing(pool: asyncpg.Pool) -> bool:
    return bool(await pool.fetchval('SELECT true'))


async def _ping(redis: ArqRedis) -> bool:
    return bool(await redis.ping())


# The counts come last: they take the longest where much mail waits.
OVERVIEW: Questions = {
    Source.POSTGRESQL: {
        'database': read_identity,
        'switches': _read_switches,
        'duties': reports.read_duties,
        'services': reports.read_services,
        'durations': reports.read_durations,
        'failures': _count_failures,
        'seen_workers': reports.read_seen_workers,
        'poisoned': checkup.count_poisoned,
        'feedback': count_feedback,
        'paused_due': reports.read_paused_due,
        'quotas': _read_quotas,
        'webhooks': read_webhook_figures,
        'outbox': reports.read_outbox,
    },
    Source.REDIS: {
        'workers': _read_workers,
        'ingresses': _read_ingresses,
        'queues': _read_queues,
    },
}
READINESS: Questions = {
    Source.POSTGRESQL: {'postgresql': _ask_nothing},
    Source.REDIS: {'redis': _ping},
}
