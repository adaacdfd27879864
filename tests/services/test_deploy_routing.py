"""QUEUE_ROUTING: e-mails through one queue, maintenance through another, and nobody's queue is
reported.
"""

import asyncio
import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from fleet.routing import EMAIL_QUEUE, MAINTENANCE_QUEUE, keep_watching_routes, unserved_routes
from mail_outbox.wake import wake_workers
from tests.conftest import ROOT, wait_until

DUTIES = """
import json, worker
def names(options): return [job.name.removeprefix('cron:') for job in options['cron_jobs']]
workers = vars(worker.WorkerSettings), worker.HighPriority, worker.LowPriority
print(json.dumps([names(part) for part in workers]))
"""
MAIL = ['process_pending_emails']
MAINTENANCE = [
    'check_service_health', 'cleanup_expired_emails', 'cleanup_old_sessions', 'count_history',
    'fetch_reports', 'apply_feedback',
]  # fmt: skip


@pytest.mark.parametrize(
    ('routing', 'expected'),
    [('false', [MAIL + MAINTENANCE] * 3), ('true', [MAIL, MAIL, MAINTENANCE])],
)
def test_maintenance_is_scheduled_by_low_priority_workers_only_when_routed(env, routing, expected):
    ran = subprocess.run(
        [sys.executable, '-c', DUTIES],
        cwd=ROOT,
        env=env | {'QUEUE_ROUTING': routing},
        capture_output=True,
        check=True,
    )
    assert json.loads(ran.stdout) == expected


async def test_routed_worker_puts_the_next_attempt_into_the_queue_for_emails(
    start_worker, redis, queue, inbox, pool
):
    await start_worker(QUEUE_ROUTING='true', EMAIL_RETRY_BASE_DELAY='600').started()
    email_id = await queue('routed+4xx-twice@example.com')
    await redis.enqueue_job('send_email', email_id)
    await wait_until(lambda: redis.zcard(EMAIL_QUEUE), what='a job for the second attempt')
    (job_id,) = await redis.zrange(EMAIL_QUEUE, 0, -1)
    assert job_id.decode().startswith(f'send_email:{email_id}:')
    assert not [
        job for job in await redis.zrange('arq:queue', 0, -1) if job.startswith(b'send_email:')
    ]


async def test_producer_wakes_the_worker_of_the_queue_for_emails(
    start_worker, redis, queue, inbox, pool
):
    await start_worker('worker.HighPriority', QUEUE_ROUTING='true').started()
    assert await wake_workers(redis, pool, await queue(), queue_name=EMAIL_QUEUE) == 'redis'
    await wait_until(lambda: inbox.accepted('anna@example.com'))


async def test_routes_are_unserved_until_somebody_polls_them(redis):
    assert await unserved_routes(redis) == [EMAIL_QUEUE, MAINTENANCE_QUEUE]
    await redis.set(f'{EMAIL_QUEUE}:health-check', 'alive', ex=10)
    assert await unserved_routes(redis) == [MAINTENANCE_QUEUE]


async def test_worker_says_once_which_route_nobody_serves_and_what_to_start(redis):
    stopping = asyncio.Event()
    await redis.set(f'{EMAIL_QUEUE}:health-check', 'alive', ex=60)
    with capture_logs() as lines:
        watching = asyncio.create_task(keep_watching_routes(redis, stopping, grace_s=0.01))
        await wait_until(lambda: lines)
        stopping.set()
        await watching
    (line,) = lines
    assert (line['log_level'], line['queue']) == ('error', MAINTENANCE_QUEUE)
    assert line['remedy'] == 'start `arq worker.LowPriority`'
