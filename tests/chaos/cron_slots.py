"""The cron slots with 5 workers, of which the one that runs is killed now and then."""

import itertools
import time
from collections import defaultdict

from tests.chaos.arena import Arena, Stage
from tests.chaos.report import Row
from tests.chaos.waiting import until

WORKERS = 5
KILL_EVERY = 6  # slots
TABLE_SQL = """
CREATE TABLE chaos_runs (id serial PRIMARY KEY, slot timestamptz, worker text,
    ended boolean NOT NULL DEFAULT false)
"""
SLOTS_SQL = 'SELECT slot, finished_at IS NOT NULL AS finished FROM cron_runs ORDER BY slot'
RUNS_SQL = 'SELECT slot, worker, ended FROM chaos_runs ORDER BY id'
RUNNING_SQL = (
    'SELECT worker FROM chaos_runs WHERE NOT ended AND slot = (SELECT max(slot) FROM chaos_runs)'
)
COUNT_SQL = 'SELECT count(*) FROM cron_runs'


async def cron_slots(arena: Arena) -> list[Row]:
    """5 workers share 30 slots (short: 8) of a few seconds.

    Each runs once, and again when its worker was killed.
    """
    row = Row('cron, 5 workers (slots, not e-mails)')
    slot_s = (
        5 if arena.short else 3
    )  # shorter ones would be missed where three lanes share two cores
    async with arena.stage('cron', CHAOS_SLOT_S=str(slot_s)) as stage:
        await stage.pool.execute(TABLE_SQL)
        workers = [
            stage.fleet.start('tests.chaos.quick_cron.WorkerSettings') for _ in range(WORKERS)
        ]
        await stage.fleet.started(*workers)
        first = await stage.pool.fetchval(COUNT_SQL)
        slots = stage.pick(30, 8)
        killed = set()
        for number in range(KILL_EVERY // 2, slots, KILL_EVERY):
            await _slots_seen(stage, first + number, slot_s)
            killed.add(await _kill_running(stage, slot_s))
            row.faults += 1
        await _slots_seen(stage, first + slots + 1, slot_s)
        row.problems += await stage.fleet.stop_all()
        await _judge(stage, row, killed, slot_s)
        row.took_s = time.time() - stage.started_at
        row.notes += [f'logged: {alarm}' for alarm in stage.fleet.alarms()]
    return [row]


async def _slots_seen(stage: Stage, count: int, slot_s: float) -> None:
    async def seen() -> bool:
        return await stage.pool.fetchval(COUNT_SQL) >= count

    await until(seen, (count + 3) * slot_s + 30, f'{count} slots')


async def _kill_running(stage: Stage, slot_s: float) -> str:
    """Kill the worker that runs the duty just now, and start another. Returns its identity."""
    while True:
        running = await until(
            lambda: stage.pool.fetchval(RUNNING_SQL), 3 * slot_s + 30, 'a run', poll_s=0.005
        )
        for worker in stage.fleet.up:
            if worker.identity == running:
                stage.fleet.kill(worker)
                stage.fleet.start('tests.chaos.quick_cron.WorkerSettings')
                return str(running)


async def _judge(stage: Stage, row: Row, killed: set[str], slot_s: float) -> None:
    runs = defaultdict(list)
    for run in await stage.pool.fetch(RUNS_SQL):
        runs[run['slot']].append(run)
    slots = await stage.pool.fetch(SLOTS_SQL)
    row.emails = len(slots)
    for slot in slots[:-1]:  # the last may have been running when we stopped
        done = runs[slot['slot']]
        ended = sum(run['ended'] for run in done)
        unexplained = [run for run in done if not run['ended'] and run['worker'] not in killed]
        row.delivered += ended > 0
        row.lost += ended == 0
        row.outside += max(0, ended - 1)
        if ended != 1 or unexplained or not slot['finished']:
            row.problems.append(
                f'slot {slot["slot"]:%H:%M:%S}: {ended} runs ended, {[tuple(run) for run in done]}'
            )
    row.delivered += bool(slots) and any(run['ended'] for run in runs[slots[-1]['slot']])
    gaps = [
        int((b['slot'] - a['slot']).total_seconds() / slot_s) - 1
        for a, b in itertools.pairwise(slots)
    ]
    if sum(gaps):
        row.problems.append(f'{sum(gaps)} slots were never run')
    row.duplicates = sum(len(done) - 1 for done in runs.values() if done)
    row.notes.append('duplicates are the runs that were cut by a kill and run again')
