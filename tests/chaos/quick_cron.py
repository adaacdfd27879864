"""`arq tests.chaos.quick_cron.WorkerSettings`.

The worker with one duty, whose slots are seconds long, not minutes.

The duty writes down each of its runs, and takes a moment, so that a kill can cut it.
"""

import asyncio
import os
from dataclasses import replace
from typing import Any

import cron
import db.cron_runs
from fleet.duties import Duty

SLOT_S = int(os.environ['CHAOS_SLOT_S'])
RUN_S = SLOT_S / 8
# The same proportion to the slot as for the sweep: 60 s of 300 s.
SLOT_LEASE_S = SLOT_S / 3

BEGIN_SQL = (
    'INSERT INTO chaos_runs (slot, worker) VALUES ((SELECT max(slot) FROM cron_runs), $1) '
    'RETURNING id'
)
END_SQL = 'UPDATE chaos_runs SET ended = true WHERE id = $1'


async def tick(ctx: dict[str, Any]) -> dict[str, Any]:
    runtime = ctx['runtime']
    run_id = await runtime.stores.pool.fetchval(BEGIN_SQL, runtime.rules.worker)
    await asyncio.sleep(RUN_S)
    await runtime.stores.pool.execute(END_SQL, run_id)
    return {'affected': 1}


cron.SCHEDULES = (cron.Schedule(Duty(tick.__name__, SLOT_S, missed='once'), tick),)
cron.KEEPER_S = SLOT_S / 10
cron.SLOT_LEASE_S = db.cron_runs.SLOT_LEASE_S = SLOT_LEASE_S

import worker  # noqa: E402 - its table of cron jobs is made from SCHEDULES when it is imported

# arq's form has whole minutes; ours fires in each slot.
CRON_JOBS = [
    replace(job, minute=None, hour=None, second=set(range(0, 60, SLOT_S)))
    for job in worker.WorkerSettings.cron_jobs
]
WorkerSettings = {
    k: v for k, v in vars(worker.WorkerSettings).items() if not k.startswith('__')
} | {'cron_jobs': CRON_JOBS}
