"""`arq tests.rehearsal.quick_worker.WorkerSettings`.

The worker with duties every few seconds, not minutes.
"""

from dataclasses import replace

import cron
import db.cron_runs

SLOT_S = 5
cron.SCHEDULES = tuple(
    replace(schedule, duty=replace(schedule.duty, every_s=SLOT_S)) for schedule in cron.SCHEDULES
)
cron.KEEPER_S = 1.0
cron.SLOT_LEASE_S = db.cron_runs.SLOT_LEASE_S = 30.0

import worker  # noqa: E402 - its table of cron jobs is made from SCHEDULES when it is imported

# arq's form has whole minutes; ours fires in each slot.
CRON_JOBS = [
    replace(job, minute=None, hour=None, second=set(range(0, 60, SLOT_S)))
    for job in worker.WorkerSettings.cron_jobs
]
WorkerSettings = {
    k: v for k, v in vars(worker.WorkerSettings).items() if not k.startswith('__')
} | {'cron_jobs': CRON_JOBS}
