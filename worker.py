"""The worker: `arq worker.WorkerSettings`. Wiring only."""

from logs import configure_logs  # before structlog, which would load rich

# isort: split
import asyncio
import importlib.util
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC
from functools import partial
from typing import Any, ClassVar

import arq.worker
import asyncpg
import structlog
from arq import func
from arq.connections import ArqRedis
from arq.typing import WorkerCoroutine

from configuration.dkim_keys import make_signing
from configuration.live import LiveSettings, make_domain_limits, make_relays, make_routes
from cron import SCHEDULES, cron_jobs, keep_schedules, mail_schedules, maintenance_schedules
from db.errors import DATABASE_DOWN, ErrorKind, kind_of, words_of
from db.identity import read_identity
from db.mongo import open_mongo
from db.pools import create_postgres_pool
from db.schema import SchemaMismatchError, check_schema
from db.senders import note_own_sender
from db.switches import CHANNEL as SWITCHES_CHANNEL
from db.switches import read_switches
from db.wakeups import RESCUED_CHANNEL, listen, notify_rescued
from delivery.activity import Activity, Neighbours
from delivery.alerts.assemble import make_alerts
from delivery.assemble import assemble
from delivery.attempt_spans import AttemptSpans
from delivery.beat import beat
from delivery.bytes_in_flight import default_bytes_in_flight
from delivery.email_jobs import subject_of
from delivery.rules import RetentionRules, Stores, WebhookRules, WorkerRules
from delivery.runtime import Runtime
from delivery.tunables import Switches, Tunables
from delivery.webhooks.loop import keep_delivering_webhooks
from engine.background import keep_alive
from engine.dispatcher import Dispatcher
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize
from fleet.controls import Controls
from fleet.neighbours import keep_watching_neighbours
from fleet.routing import EMAIL_QUEUE, MAINTENANCE_QUEUE, keep_watching_routes
from jobs.retry_failed_email import retry_failed_email
from jobs.send_email import send_claimed, send_email
from mail.route import SwitchableRelays
from mail_outbox.address_fields import Sender
from mail_outbox.wake import redis_error_text
from process import memory
from process.recycling import Limits
from process.supervisor import Supervisor
from reporting.unreachable import postgres_problem
from settings import load_settings, worker_identity

# arq's command always builds this class: make it ours. tests/unit/test_arq_traps.py watches it.
arq.worker.Worker = Dispatcher  # type: ignore[misc]

JOBS: tuple[WorkerCoroutine, ...] = (
    send_email,
    retry_failed_email,
    *(schedule.job for schedule in SCHEDULES),
)
CONNECT_AGAIN_S = 2.0
Loop = Callable[[], Coroutine[Any, Any, None]]
WAITING_JOBS = 20  # jobs claimed beyond the e-mails they could send now; they need no slot

log = structlog.get_logger()
settings = load_settings()
# arq's option, which would not say so.
if '--watch' in sys.argv and importlib.util.find_spec('watchfiles') is None:
    raise SystemExit('worker: --watch needs the package watchfiles: pip install watchfiles')


async def startup(ctx: dict[str, Any]) -> None:
    """Connect to everything and start the background tasks."""
    configure_logs(settings.log_level, settings.log_format)
    dispatcher: Dispatcher = ctx['dispatcher']
    queue_name = dispatcher.queue_name
    worker = worker_identity(settings, queue_name)
    structlog.contextvars.bind_contextvars(worker=worker)
    tracer = settings.start_observing('email-worker', worker)
    supervisor = Supervisor(settings.health_file)
    switches, signing = Switches(queue_name), make_signing(settings)
    began_at = time.monotonic()
    pool = await _connect_postgres(worker, switches, supervisor)
    relays = SwitchableRelays(make_relays(settings), make_routes(settings))
    relays.domains.limit(make_domain_limits(settings))
    runtime = assemble(
        _stores(pool, ctx['redis'], time.monotonic() - began_at),
        _rules(worker, queue_name),
        dispatcher.signals,
        Tunables(
            relays,
            Sender(settings.smtp_from_email, settings.smtp_from_name),
            max_emails=settings.worker_sweep_size,
            switches=switches,
            signing=signing,
        ),
        Activity(Neighbours(await read_identity(pool)), dispatcher.refused),
        send_claimed,
    )
    runtime.recorder.spans = AttemptSpans(tracer) if tracer is not None else None
    runtime.alerts = make_alerts(settings.alert_values, worker, runtime.stores, runtime.tunables)
    duties = [schedule.duty for schedule in SCHEDULES]
    controls = Controls(runtime, dispatcher, LiveSettings(settings, load_settings), duties)
    controls.apply_switches()
    runtime.background = _start(ctx, runtime, controls, supervisor)
    ctx['runtime'] = runtime  # nothing is awaited since the loops were made: they find it
    dispatcher.subject_of = subject_of
    dispatcher.error_text = redis_error_text
    dispatcher.wanted_jobs = lambda: WAITING_JOBS + 2 * runtime.claimer.concurrency.size
    memory.settle()
    await runtime.suspects.send_first()


def _stores(pool: asyncpg.Pool, redis: ArqRedis, connect_s: float) -> Stores:
    url, name = settings.mongodb_dsn, settings.mongodb_database
    mongo = None if url is None else open_mongo(url, name, settings.mongodb_timeout_s)
    return Stores(pool, mongo, redis, settings.cache_url, connect_s)


def _rules(worker: str, queue_name: str) -> WorkerRules:
    return WorkerRules(
        worker=worker,
        queue_name=EMAIL_QUEUE if settings.queue_routing else queue_name,
        policy=settings.retry_policy,
        retention=RetentionRules(
            settings.email_retention_days, settings.session_retention_days,
            is_set='email_retention_days' in settings.model_fields_set,
            session_tables=settings.cleanup_session_tables,
            days_by_type=tuple(settings.email_retention_days_by_type.items()),
            drop_content=settings.email_drop_content,
        ),
        expiry_hours=settings.email_expiry_hours,
        lease_s=settings.worker_lease_s,
        max_message_bytes=settings.email_max_bytes,
        safety=settings.safety,
        webhooks=WebhookRules(*settings.webhook_rules),
        max_bytes_in_flight=settings.worker_max_bytes_in_flight or default_bytes_in_flight(),
        return_paths=settings.return_paths, feedback=settings.feedback_rules,
        unsubscribe=settings.unsubscribe_links, mailbox=settings.bounce_mailbox,
    )  # fmt: skip


def _start(
    ctx: dict[str, Any], runtime: Runtime, controls: Controls, supervisor: Supervisor
) -> list[list[asyncio.Task[None]]]:
    """Start the loops beside the jobs.

    Returns:
        Them in the order in which they end: no new wake-ups, no new claims, and only then nothing
        to renew any more.
    """
    return [
        [keep_alive(loop) for loop in _watchers(runtime, controls)],
        [
            keep_alive(partial(keep_schedules, ctx)),
            keep_alive(runtime.suspects.keep_sending),
            keep_alive(runtime.sweeper.keep_sweeping),
            keep_alive(runtime.sweeper.keep_sending_urgent),
            keep_alive(partial(keep_delivering_webhooks, runtime)),
        ],
        [
            *(keep_alive(loop) for loop in _holders(runtime, supervisor)),
            *controls.tasks(
                Limits(settings.worker_recycle_jobs, settings.worker_recycle_rss_mib * 2**20)
            ),
        ],
    ]


def _watchers(runtime: Runtime, controls: Controls) -> Iterator[Loop]:
    """Yield the loops that hear of something to do."""
    signals, redis = runtime.signals, runtime.stores.redis

    def wake() -> None:
        signals.sweep_wanted.set()
        signals.urgent_wanted.set()

    others = {
        SWITCHES_CHANNEL: controls.switches_changed.set,
        RESCUED_CHANNEL: runtime.suspects.wanted.set,
    }
    yield partial(listen, settings.direct_dsn, settings.db_connect_timeout_s, wake, others)
    yield partial(keep_watching_neighbours, redis, runtime.activity.neighbours, signals.stopping)
    if settings.queue_routing:
        yield partial(keep_watching_routes, redis, signals.stopping)


def _holders(runtime: Runtime, supervisor: Supervisor) -> Iterator[Loop]:
    """Yield the loops that keep what the worker holds."""
    pool = runtime.stores.pool
    yield partial(
        beat, pool, runtime.claimer.leases, runtime.tunables.relays,
        stopping=runtime.signals.stopping, every_s=settings.worker_beat_s,
        hold_types=settings.email_hold_types, suspects_wanted=runtime.suspects.wanted,
        tell_others=partial(notify_rescued, pool), set_aside=runtime.claimer.set_aside,
        answered_at_once=runtime.stores.connect_s < CONNECT_AGAIN_S,
    )  # fmt: skip
    serving = f'Serving {runtime.tunables.switches.queue_name}'
    stopping, drain_s = runtime.signals.stopping, settings.worker_drain_s
    yield partial(supervisor.keep_informed, stopping, drain_s, serving)


async def shutdown(ctx: dict[str, Any]) -> None:
    """Stop what startup started, and close everything."""
    runtime: Runtime | None = ctx.pop('runtime', None)  # `arq --watch` starts us again
    if runtime is not None:  # else the start did not get this far
        # arq closes outside the task that started.
        structlog.contextvars.bind_contextvars(worker=runtime.rules.worker)
        await runtime.stop()
        await runtime.close()
        log.info('worker.stopped', outcomes=dict(runtime.activity.outcomes))


async def _connect_postgres(worker: str, switches: Switches, told: Supervisor) -> asyncpg.Pool:
    """Wait for PostgreSQL: on a fresh boot it may come later than we do.

    What waiting does not heal ends the worker. What operators have paused is known before anything
    is claimed.
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
            await note_own_sender(pool, settings.smtp_from_email)
            async with pool.acquire() as conn:
                if conn.is_pooled:  # type: ignore[attr-defined]  # see db.connection
                    log.info('postgresql.pooler_found', place=settings.postgres_place)
        except SchemaMismatchError as error:
            raise SystemExit(f'worker: {error}') from error
        except (*DATABASE_DOWN, asyncpg.PostgresError, ValueError) as error:
            if pool is not None:
                pool.terminate()
            if kind_of(error) is ErrorKind.REFUSED:
                raise SystemExit(
                    f'worker: {postgres_problem(error, settings.postgres_place).line}'
                ) from error
            place = settings.postgres_place
            log.error('postgresql.unreachable', during='start', place=place, error=words_of(error))
            told.tell(f'STATUS=Waiting for PostgreSQL at {place}')
            await asyncio.sleep(CONNECT_AGAIN_S)
        else:
            return pool


class WorkerSettings:
    """The default queue; arq reads __dict__, so inherited attributes would vanish silently."""

    queue_name = 'arq:queue'
    functions: ClassVar = [
        func(job, max_tries=1000)  # a shutdown counts as a try; attempts are counted in the outbox
        for job in JOBS
    ]
    cron_jobs: ClassVar = cron_jobs(
        settings.job_timeout_s, mail_schedules() if settings.queue_routing else SCHEDULES
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
    LowPriority['cron_jobs'] = cron_jobs(settings.job_timeout_s, maintenance_schedules())
