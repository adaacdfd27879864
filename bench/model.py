"""What the measured costs mean for more machines and more mail: the numbers of docs/scaling.md."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from bench.contenders import DEFAULT_CONNECTIONS
from bench.measures.delivery import EMAILS, runs_by_contender
from bench.measures.measure import table
from bench.measures.old_rows import OldRows, partition_table
from bench.measures.workers import SCALING, runs_by_cell
from bench.store import Result

CALIBRATED_ON = (1, 100)  # workers, relay latency in ms
ROLES = ('worker', 'postgres', 'redis', 'relay')

# Assumptions of the plan, told in the document.
DAY_S = 86_400
PEAK = 5  # times the day's average
BUSY = 0.5  # how much of a core may be used at the peak
WORKER_CORES, POSTGRES_CORES = 4, 8
RELAY_RTT_S = 0.05
RETENTION_DAYS = 90
INSTANCE_BYTES = (
    2e12  # what one PostgreSQL instance should hold: more takes too long to copy and restore
)
WAL_BYTES_PER_S = 100e6  # what a replica still follows without effort
JOB_SHARE = 0.5  # of the e-mails that have a job of their own
RESULT_S = 3600
TOLERABLE_S = 3600  # of retention and VACUUM a day
PER_DAY = (1e6, 1e7, 1e8)

NOT_YET = ['Not measured yet.']


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one e-mail by role, and how many round trips it keeps a connection.

    Attributes:
        job: With a job of its own.
        bulk: In a sweep.
        result_bytes: What one job's result takes in Redis.
    """

    job: Mapping[str, float]
    bulk: Mapping[str, float]
    result_bytes: float
    round_trips: float
    cores: int

    @property
    def mixed(self) -> dict[str, float]:
        """Half of the e-mails each way."""
        return {
            role: JOB_SHARE * self.job[role] + (1 - JOB_SHARE) * self.bulk[role] for role in ROLES
        }


def calibrate(kept: Mapping[str, Result]) -> Costs | None:
    """Take CPU from the e-mails without latency.

    Round trips come from one worker at the largest latency.
    """
    if EMAILS.key not in kept or SCALING.key not in kept:
        return None
    by_contender = runs_by_contender(kept[EMAILS.key].data)
    job, bulk = (
        {
            role: statistics.median(run.cpu_s_per_1000(role) for run in by_contender[key]) / 1000
            for role in ROLES
        }
        for key in ('jobs', 'bulk')
    )
    scaling = kept[SCALING.key].data
    rate = statistics.median(run.emails_per_s for run in runs_by_cell(scaling)[CALIBRATED_ON])
    result_bytes = statistics.median(run.redis_bytes / run.emails for run in by_contender['jobs'])
    round_trips = DEFAULT_CONNECTIONS / (rate * CALIBRATED_ON[1] / 1000)
    return Costs(job, bulk, result_bytes, round_trips, scaling['cores'])


def predict(costs: Costs, workers: int, delay_ms: float) -> tuple[float, str]:
    """Return bulk e-mails per second and what limits them, everything on one machine."""
    bounds = {
        'latency': workers * DEFAULT_CONNECTIONS / (costs.round_trips * delay_ms / 1000),
        "a worker's core": workers / costs.bulk['worker'],
        'all cores': costs.cores / sum(costs.bulk.values()),
    }
    limit = min(bounds, key=lambda name: bounds[name])
    return bounds[limit], limit


def check(kept: Mapping[str, Result]) -> list[str]:
    """Return the prediction beside the measurement, for every arrangement."""
    costs = calibrate(kept)
    if costs is None:
        return NOT_YET
    rows = []
    for (workers, delay_ms), runs in sorted(runs_by_cell(kept[SCALING.key].data).items()):
        measured = statistics.median(run.emails_per_s for run in runs)
        predicted, limit = predict(costs, workers, delay_ms)
        mark = ' (calibrated)' if (workers, delay_ms) == CALIBRATED_ON else ''
        busy = f'{statistics.median(run.machine_busy for run in runs):.0%}'
        ratio = f'{measured / predicted:.2f}{mark}'
        rows.append(
            (
                f'{workers}',
                f'{delay_ms:g}',
                f'{predicted:,.0f}',
                limit,
                f'{measured:,.0f}',
                ratio,
                busy,
            )
        )
    headings = (
        'workers',
        'latency ms',
        'predicted/s',
        'limited by',
        'measured/s',
        'measured over predicted',
        'busy',
    )
    told = (
        f'{DEFAULT_CONNECTIONS} connections a worker, '
        f'{costs.round_trips:.2f} round trips an e-mail, '
        f'{costs.cores} cores for everything, the relay included.'
    )
    return [told, '', *table(headings, rows)]


def saturation(kept: Mapping[str, Result]) -> list[str]:
    """Return what each part can do at most."""
    costs = calibrate(kept)
    if costs is None:
        return NOT_YET
    rows = []
    for role, unit in (
        ('worker', 'one process (one core)'),
        ('postgres', 'one core'),
        ('redis', 'one instance (one core)'),
    ):
        for_job, for_bulk = costs.job[role], costs.bulk[role]
        # Below a tick of the clock there is nothing to divide by.
        each = [f'{1 / cost:,.0f}' if cost > 1e-6 else 'no limit' for cost in (for_job, for_bulk)]
        rows.append((f'{role}, {unit}', f'{for_job * 1000:.2f}', f'{for_bulk * 1000:.2f}', *each))
    headings = (
        'what',
        'CPU s per 1,000, a job each',
        'CPU s per 1,000, bulk',
        'e-mails/s, a job each',
        'e-mails/s, bulk',
    )
    connections = DEFAULT_CONNECTIONS / costs.round_trips
    told = (
        f'A relay with R ms of latency takes {1000 / costs.round_trips:,.0f} / R e-mails a second '
        'on each connection, '
        f'so a worker with {DEFAULT_CONNECTIONS} sends {connections * 1000:,.0f} / R. '
        f'A kept result takes {costs.result_bytes:,.0f} bytes of Redis.'
    )
    return [*table(headings, rows), '', told]


def machines(kept: Mapping[str, Result]) -> list[str]:
    """Return what one, ten and a hundred million e-mails a day need."""
    costs = calibrate(kept)
    if costs is None or 'million' not in kept:
        return NOT_YET
    million = kept['million'].data
    columns = [
        _plan(costs, million['bytes_per_email'], million['wal_bytes_per_email'], per_day)
        for per_day in PER_DAY
    ]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    headings = ('', *(f'{per_day / 1e6:g} million a day' for per_day in PER_DAY))
    return table(headings, rows)


def _plan(costs: Costs, row_bytes: float, wal_bytes: float, per_day: float) -> dict[str, str]:
    average = per_day / DAY_S
    peak = average * PEAK
    cost = costs.mixed
    worker_cores, postgres_cores = peak * cost['worker'] / BUSY, peak * cost['postgres'] / BUSY
    stored_bytes = per_day * RETENTION_DAYS * row_bytes
    by_limit = {
        'CPU': math.ceil(postgres_cores / POSTGRES_CORES),
        'storage': math.ceil(stored_bytes / INSTANCE_BYTES),
        'WAL': math.ceil(peak * wal_bytes / WAL_BYTES_PER_S),
    }
    shards = max(by_limit.values())
    why = f' ({max(by_limit, key=lambda name: by_limit[name])})' if shards > 1 else ''
    connections = peak * costs.round_trips * RELAY_RTT_S
    processes = max(2, math.ceil(max(worker_cores, connections / DEFAULT_CONNECTIONS)))
    worker_machines = max(2, math.ceil(processes / WORKER_CORES))
    redis_cores = peak * cost['redis'] / BUSY
    smtp_connections = max(1, math.ceil(connections))
    redis_machines = max(1, math.ceil(redis_cores))
    results_bytes = peak * JOB_SHARE * RESULT_S * costs.result_bytes
    return {
        'e-mails/s, average; peak': f'{average:,.0f}; {peak:,.0f}',
        'worker cores at the peak': f'{worker_cores:.1f}',
        f'SMTP connections, relay at {RELAY_RTT_S * 1000:.0f} ms': f'{smtp_connections:,}',
        'worker processes': f'{processes:,}',
        'PostgreSQL cores at the peak': f'{postgres_cores:.1f}',
        f'stored for {RETENTION_DAYS} days': f'{stored_bytes / 1e9:,.0f} GB',
        'WAL at the peak': f'{peak * wal_bytes / 1e6:,.1f} MB/s',
        'outbox instances (what decides)': f'{shards}{why}',
        'Redis cores at the peak': f'{redis_cores:.2f}',
        "Redis memory for an hour's results": f'{results_bytes / 1e6:,.0f} MB',
        f'machines: workers ({WORKER_CORES} cores)': f'{worker_machines}',
        f'machines: PostgreSQL ({POSTGRES_CORES} cores), primary and standby each': f'{2 * shards}',
        'machines: Redis with Sentinel (may share with the workers)': f'{3 * redis_machines}',
    }


def partitioning(kept: Mapping[str, Result]) -> list[str]:
    """Return what old rows cost in one table.

    It says from how many e-mails a day on that is too much.
    """
    if OldRows.key not in kept:
        return NOT_YET
    data = kept[OldRows.key].data
    retention, partition = data['retention'], data['partition']
    # VACUUM reads every index as a whole, so it grows with the table, not with what was deleted.
    vacuum_s_per_row = retention['vacuum_s'] / data['steps'][-1]['rows']
    delete_s_per_row = 1 / retention['rows_per_s']
    rows = []
    for per_day in PER_DAY:
        stored = per_day * RETENTION_DAYS
        columns = (stored / 1e6, per_day * delete_s_per_row, stored * vacuum_s_per_row)
        rows.append((f'{per_day / 1e6:g} million', *(f'{value:,.0f}' for value in columns)))
    headings = (
        'e-mails a day',
        f'million rows, {RETENTION_DAYS} days',
        'deleting a day, s',
        'one VACUUM after it, s',
    )
    threshold = TOLERABLE_S / (delete_s_per_row + RETENTION_DAYS * vacuum_s_per_row)
    told = (
        'By these numbers retention and the VACUUM after it take '
        f'{TOLERABLE_S / 3600:g} h a day from '
        f'{threshold / 1e6:.1f} million e-mails a day on, '
        f'{threshold * RETENTION_DAYS / 1e6:,.0f} million rows; '
        f'dropping a partition of {partition["rows"]:,} rows took {partition["drop_ms"]:.0f} ms.'
    )
    return [*partition_table(data), '', *table(headings, rows), '', told]


def matrix(kept: Mapping[str, Result]) -> list[str]:
    """Return the measured rates by workers and latency."""
    if SCALING.key not in kept:
        return NOT_YET
    result = kept[SCALING.key]
    return [
        f'{result.at}, `{result.command}`, {result.rounds} rounds.',
        '',
        *SCALING.details(result.data),
    ]


BLOCKS = {
    'saturation': saturation,
    'check': check,
    'matrix': matrix,
    'machines': machines,
    'partitioning': partitioning,
}
