"""The worker: `arq worker.WorkerSettings`. Wiring only."""

from logs import configure_logs  # before structlog, which would load rich

# isort: split
import asyncio
import contextlib
import gc
import importlib.util
import sys
import time
from datetime import UTC
from functools import partial
from typing import Any, ClassVar

import arq.worker
import asyncpg
import structlog
from arq import func

from configuration.relays import relay_options
from cron import MAIL_DUTIES, MAINTENANCE_DUTIES, SCHEDULES, cron_jobs, keep_schedules
from db.content import close_mongo
from db.identity import read_identity
from db.pools import DATABASE_DOWN, create_postgres_pool, open_mongo
from db.schema import SchemaMismatchError, check_schema
from db.switches import CHANNEL as SWITCHES_CHANNEL
from db.switches import read_switches
from db.troubles import Kind, kind_of
from db.wakeups import RESCUED_CHANNEL, listen, notify_rescued
from delivery.beat import beat
from delivery.bytes_in_flight import default_bytes_in_flight
from delivery.email_jobs import subject_of
from delivery.leases import Leases
from delivery.neighbours import Neighbours
from delivery.runtime import Runtime
from delivery.switches import Switches
from engine.background import keep_alive
from engine.connection import redis_settings
from engine.dispatcher import Dispatcher
from engine.wire import deserialize, serialize
from fleet.neighbours import keep_watching_neighbours
from fleet.routing import EMAIL_QUEUE, MAINTENANCE_QUEUE, keep_watching_routes
from jobs.check_service_health import check_service_health
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.cleanup_old_sessions import cleanup_old_sessions
from jobs.process_pending_emails import process_pending_emails
from jobs.retry_failed_email import retry_failed_email
from jobs.send_email import send_email
from jobs.sweeper import keep_sending_suspects, keep_sweeping
from jobs.urgent import keep_sending_urgent
from mail.relay.pool import Relay
from mail.route import SwitchableRelays
from mail_outbox.render import Sender
from mail_outbox.wake import notify, redis_error_text
from operating import Operating
from process.systemd import keep_systemd_informed, tell_systemd
from reporting.unreachable import postgres_trouble
from settings import Settings, load_settings, worker_identity

# arq's command always builds arq.worker.Worker: make that ours. tests/unit/test_arq_traps.py
# watches the name.
arq.worker.Worker = Dispatcher  # type: ignore[misc]

GC_EVERY_OBJECTS = 20_000
KEEPERS = (keep_schedules, keep_sweeping, keep_sending_suspects, keep_sending_urgent)
SETTLE_S = 5.0  # at the end: what PostgreSQL does not take by then, the rescue finds
WAITING_JOBS = 20  # jobs claimed beyond the e-mails they could send now; they need no place

log = structlog.get_logger()
settings = load_settings()
if (
    '--watch' in sys.argv and importlib.util.find_spec('watchfiles') is None
):  # arq's option, which would not say so
    raise SystemExit('worker: --watch needs the package watchfiles: pip install watchfiles')


async def startup(ctx: dict[str, Any]) -> None:
    """Connect to everything and start the background tasks."""
    configure_logs(settings.log_level, settings.log_format)
    queue_name = ctx['redis'].default_queue_name
    worker = worker_identity(settings, queue_name)
    structlog.contextvars.bind_contextvars(worker=worker)
    switches = Switches(queue_name)
    pool = await _connect_postgres(worker, switches)
    runtime = ctx['runtime'] = Runtime(
        pool=pool,
        mongo=open_mongo(
            settings.mongodb_url.get_secret_value(),
            settings.mongodb_database,
            settings.mongodb_timeout_s,
        ),
        redis=ctx['redis'],
        cache_url=settings.redis_url.get_secret_value(),
        relays=SwitchableRelays(make_relays(settings)),
        leases=Leases(settings.worker_lease_s),
        worker=worker,
        # where jobs for e-mails go
        queue_name=EMAIL_QUEUE if settings.queue_routing else queue_name,
        sender=Sender(settings.smtp_from_email, settings.smtp_from_name),
        policy=settings.retry_policy,
        max_message_bytes=settings.email_max_bytes,
        max_bytes_in_flight=settings.worker_max_bytes_in_flight or default_bytes_in_flight(),
        sweep_size=settings.worker_sweep_size,
        expiry_hours=settings.email_expiry_hours,
        email_retention_days=settings.email_retention_days,
        retention_is_set='email_retention_days' in settings.model_fields_set,
        session_retention_days=settings.session_retention_days,
        cleanup_session_tables=settings.cleanup_session_tables,
        signals=ctx['dispatcher'].signals,
        switches=switches,
        neighbours=Neighbours(await read_identity(pool)),
        refused=ctx['dispatcher'].refused,
    )
    operating = Operating(ctx, settings, make_relays)
    operating.controls.heed_switches()

    beating = partial(
        beat,
        pool,
        runtime.leases,
        runtime.relays,
        stopping=runtime.signals.stopping,
        every_s=settings.worker_beat_s,
        hold_types=settings.email_hold_types,
        on_rescued=partial(notify_rescued, pool),  # all workers share the work, we among them
        set_aside=runtime.set_aside,
    )
    dsn, timeout_s = settings.direct_dsn, settings.db_connect_timeout_s

    others = {
        SWITCHES_CHANNEL: operating.switches_changed.set,
        RESCUED_CHANNEL: runtime.suspects_wanted.set,
    }

    def wake() -> None:
        runtime.signals.sweep_wanted.set()
        runtime.signals.urgent_wanted.set()

    listening = partial(listen, dsn, timeout_s, wake, others)
    telling = partial(
        keep_systemd_informed,
        runtime.signals.stopping,
        settings.worker_drain_s,
        f'Serving {queue_name}',
    )
    watching = partial(keep_watching_routes, runtime.redis, runtime.signals.stopping)
    neighbours = partial(
        keep_watching_neighbours, runtime.redis, runtime.neighbours, runtime.signals.stopping
    )
    # In the order in which they end: no new wake-ups, no new claims, and only then nothing to renew
    # any more.
    ctx['background'] = [
        [
            keep_alive(listening),
            keep_alive(neighbours),
            *([keep_alive(watching)] if settings.queue_routing else []),
        ],
        [keep_alive(partial(keep, ctx)) for keep in KEEPERS],
        [keep_alive(beating), keep_alive(telling), *operating.tasks()],
    ]
    ctx['dispatcher'].subject_of = subject_of
    ctx['dispatcher'].error_text = redis_error_text
    ctx['dispatcher'].wanted_jobs = lambda: WAITING_JOBS + 2 * runtime.places.size
    gc.collect()
    gc.freeze()  # what the start left behind stays; looking at it again and again took a twentieth of the CPU
    gc.set_threshold(GC_EVERY_OBJECTS)


async def shutdown(ctx: dict[str, Any]) -> None:
    """Let running sweeps finish until the drain time is over, release the rest, close everything."""
    background = ctx.pop('background', None)  # `arq --watch` starts us again
    if background is None:  # the start did not get this far
        return
    runtime: Runtime = ctx['runtime']
    structlog.contextvars.bind_contextvars(
        worker=runtime.worker
    )  # arq closes outside the task that started
    listening, sweeping, holding = background
    runtime.signals.sweep_wanted.set()  # whoever waits for work sees that there will be none
    runtime.suspects_wanted.set()
    runtime.signals.urgent_wanted.set()
    await _cancel(listening)
    await asyncio.wait(
        {*sweeping, *runtime.sending}, timeout=max(0.0, runtime.signals.stop_by - time.monotonic())
    )
    await _cancel(sweeping)
    await _cancel(list(runtime.sending))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            await runtime.settle()
    with contextlib.suppress(*DATABASE_DOWN):  # they will find it in their next sweep
        await notify(runtime.pool)  # what we released is due for the others
    await _cancel(holding)
    runtime.relays.close_idle(older_than_s=0)
    await runtime.templates.close()
    await close_mongo(runtime.mongo)
    await runtime.pool.close()
    log.info('worker.stopped', outcomes=dict(runtime.outcomes))


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _connect_postgres(worker: str, switches: Switches) -> asyncpg.Pool:
    """Wait for PostgreSQL: on a fresh boot it may come later than we do. What waiting does not heal ends the worker.

    What operators have paused is known before anything is claimed.
    """
    pool: asyncpg.Pool | None = None
    while True:
        try:
            pool = await create_postgres_pool(
                settings.postgres_dsn,
                size=settings.db_pool_size,
                connect_timeout_s=settings.db_connect_timeout_s,
                command_timeout_s=settings.db_command_timeout_s,
                application_name=worker,
                by_index=True,
                naive_timezone=settings.db_naive_timezone,
            )
            await check_schema(pool)
            switches.update(await read_switches(pool))
            async with pool.acquire() as conn:
                if conn.is_pooled:  # type: ignore[attr-defined]  # see db.connection
                    log.info('postgresql.pooler_found', place=settings.postgres_place)
        except SchemaMismatchError as error:
            raise SystemExit(f'worker: {error}') from error
        except (*DATABASE_DOWN, asyncpg.PostgresError, ValueError) as error:
            if pool is not None:
                pool.terminate()
            if kind_of(error) is Kind.REFUSED:
                raise SystemExit(
                    f'worker: {postgres_trouble(error, settings.postgres_place).line}'
                ) from error
            log.error(
                'postgresql.unreachable',
                during='start',
                place=settings.postgres_place,
                error=str(error) or type(error).__name__,
            )
            tell_systemd(f'STATUS=Waiting for PostgreSQL at {settings.postgres_place}')
            await asyncio.sleep(2)
        else:
            return pool


def make_relays(settings: Settings) -> list[Relay]:
    """Return the configured relays, the primary first."""
    return [Relay(options) for options in relay_options(settings)]


class WorkerSettings:
    """The default queue. arq reads this class through __dict__: inherited attributes would vanish silently."""

    queue_name = 'arq:queue'
    functions: ClassVar = [
        func(job, max_tries=1000)  # a shutdown counts as a try; attempts are counted in the outbox
        for job in (
            send_email,
            process_pending_emails,
            retry_failed_email,
            check_service_health,
            cleanup_expired_emails,
            cleanup_old_sessions,
        )
    ]
    cron_jobs: ClassVar = cron_jobs(
        settings.job_timeout_s, MAIL_DUTIES if settings.queue_routing else SCHEDULES
    )
    timezone = UTC
    redis_settings = redis_settings(settings.arq_redis_url.get_secret_value())
    on_startup = startup
    on_shutdown = shutdown
    job_serializer = serialize
    job_deserializer = deserialize
    max_jobs = settings.worker_max_jobs
    job_timeout = settings.job_timeout_s
    job_completion_wait = settings.worker_drain_s
    keep_result = settings.worker_keep_result_s
    poll_delay = settings.worker_poll_delay_s
    health_check_interval = 10
    log_results = False


def _for_queue(queue_name: str) -> dict[str, Any]:
    own = {name: value for name, value in vars(WorkerSettings).items() if not name.startswith('__')}
    return own | {'queue_name': queue_name}


# arq takes a dict as well as a class.
HighPriority = _for_queue(EMAIL_QUEUE)
LowPriority = _for_queue(MAINTENANCE_QUEUE)
if settings.queue_routing:
    LowPriority['cron_jobs'] = cron_jobs(settings.job_timeout_s, MAINTENANCE_DUTIES)
