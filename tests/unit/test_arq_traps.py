"""What arq 0.28 does that would surprise us, and that we are on the safe side of it."""

import importlib
import inspect
import pickle
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arq.worker
import pytest
from arq.cli import cli
from arq.connections import RedisSettings
from arq.constants import result_key_prefix
from arq.cron import cron
from arq.jobs import Job, SerializationError, deserialize_job_raw, serialize_result
from arq.worker import Function, create_worker, get_kwargs
from click.testing import CliRunner

from configuration.sources import variable_names
from cron import SCHEDULES, cron_jobs
from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME
from engine.dispatcher import Dispatcher
from engine.job_runner import JobRunner
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize
from settings import Settings
from tests.unit.fake_redis import FakeRedis

STOCK_WORKER = JobRunner.__base__
QUEUES = ['WorkerSettings', 'HighPriority', 'LowPriority']
SOURCES = [
    'cron.py',
    'worker.py',
    *(f'{folder}/*.py' for folder in ('db', 'fleet', 'jobs', 'mail', 'ops', 'reporting', 'web')),
]


@pytest.fixture(scope='module')
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module worker, imported in an environment without any setting."""
    with pytest.MonkeyPatch.context() as patch:
        for field_name, field in Settings.model_fields.items():
            for name in variable_names(field_name, field):
                patch.delenv(name, raising=False)
        patch.chdir(tmp_path_factory.mktemp('no-env-file'))
        yield importlib.import_module('worker')


def own_options(settings: Any) -> dict[str, Any]:
    found = settings if isinstance(settings, dict) else vars(settings)
    return {name: value for name, value in found.items() if not name.startswith('__')}


def options_of_stock_worker() -> set[str]:
    return set(inspect.signature(STOCK_WORKER.__init__).parameters) - {'self'}


# The pins.


def test_installed_arq_is_the_one_that_was_read() -> None:
    assert version('arq').startswith('0.28.')


def test_installed_redis_client_is_one_that_arq_works_with() -> None:
    assert int(version('redis').split('.', maxsplit=1)[0]) < 6


# WorkerSettings.


@pytest.mark.parametrize('queue', QUEUES)
def test_every_option_is_one_that_arq_reads(worker: Any, queue: str) -> None:
    options = own_options(getattr(worker, queue))
    assert options.keys() <= options_of_stock_worker()
    assert get_kwargs(getattr(worker, queue)) == options


def test_misspelt_and_inherited_options_would_vanish(worker: Any) -> None:
    class Misspelt:
        max_job = 1

    class Inherited(worker.WorkerSettings):
        pass

    assert get_kwargs(Misspelt) == {}
    assert get_kwargs(Inherited) == {}


@pytest.mark.parametrize('queue', QUEUES)
def test_no_option_that_we_count_on_is_missing(worker: Any, queue: str) -> None:
    needed = {
        *(
            'functions',
            'cron_jobs',
            'queue_name',
            'redis_settings',
            'on_startup',
            'on_shutdown',
            'timezone',
        ),
        *(
            'job_serializer',
            'job_deserializer',
            'max_jobs',
            'job_timeout',
            'job_completion_wait',
            'keep_result',
        ),
        *('poll_delay', 'health_check_interval', 'log_results'),
    }
    assert needed <= own_options(getattr(worker, queue)).keys()


def test_queues_differ_in_their_name_alone(worker: Any) -> None:
    default, *others = [own_options(getattr(worker, queue)) for queue in QUEUES]
    assert default['queue_name'] == 'arq:queue'
    assert others == [default | {'queue_name': name} for name in ('high_priority', 'low_priority')]


def test_jobs_are_registered_by_the_names_that_producers_use(worker: Any) -> None:
    assert {function.name for function in worker.WorkerSettings.functions} == {
        'send_email',
        'process_pending_emails',
        'retry_failed_email',
        'check_service_health',
        'count_history',
        'apply_feedback',
        'fetch_reports',
        'cleanup_expired_emails',
        'cleanup_old_sessions',
    }


def test_shutdowns_do_not_use_up_a_jobs_tries(worker: Any) -> None:
    """Each cancellation by a shutdown counts as a try, and stock arq fails the job at the sixth."""
    assert inspect.signature(STOCK_WORKER.__init__).parameters['max_tries'].default == 5
    for function in worker.WorkerSettings.functions:
        assert isinstance(function, Function)
        assert (function.max_tries or 0) >= 1000


@pytest.mark.parametrize('hook', ['on_job_start', 'on_job_end', 'after_job_end'])
def test_no_hook_can_kill_the_worker(worker: Any, hook: str) -> None:
    """A hook that raises ends the worker and leaves the job locked."""
    assert hook in options_of_stock_worker()
    assert all(hook not in own_options(getattr(worker, queue)) for queue in QUEUES)


def test_jobs_are_never_aborted_through_arq(worker: Any) -> None:
    """Job.abort of an id that is not there poisons the next job with that id."""
    assert all('allow_abort_jobs' not in own_options(getattr(worker, queue)) for queue in QUEUES)
    root = Path(worker.__file__).parent
    texts = {path: path.read_text() for pattern in SOURCES for path in root.glob(pattern)}
    assert len(texts) > 20
    aborts = re.compile(r'\bjob\w*\.abort\(|allow_abort_jobs *=', re.IGNORECASE)
    assert [path for path, text in texts.items() if aborts.search(text)] == []


def test_polls_are_more_frequent_than_stock_ones(worker: Any) -> None:
    assert inspect.signature(STOCK_WORKER.__init__).parameters['poll_delay'].default == 0.5
    assert worker.WorkerSettings.poll_delay <= 0.1


def test_health_key_lapses_soon_after_the_last_worker(worker: Any) -> None:
    assert (
        inspect.signature(STOCK_WORKER.__init__).parameters['health_check_interval'].default == 3600
    )
    assert worker.WorkerSettings.health_check_interval <= 30


# The Worker that the arq command builds.


def test_dispatcher_keeps_the_signature_that_arq_picks_options_by() -> None:
    assert inspect.signature(Dispatcher) == inspect.signature(STOCK_WORKER)


def test_worker_module_puts_the_dispatcher_in_arqs_place(worker: Any) -> None:
    assert arq.worker.Worker is Dispatcher


@pytest.mark.parametrize('queue', QUEUES)
async def test_create_worker_builds_a_dispatcher_in_utc(worker: Any, queue: str) -> None:
    built = create_worker(getattr(worker, queue), handle_signals=False)
    assert type(built) is Dispatcher
    assert built.timezone is UTC
    assert built.queue_name == own_options(getattr(worker, queue))['queue_name']


@pytest.mark.parametrize('queue', QUEUES)
def test_arq_command_runs_a_dispatcher(
    worker: Any, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run(self: Any) -> None:
        ran.append(self)
        self.loop.close()

    monkeypatch.setattr(Dispatcher, 'run', run)
    monkeypatch.setattr(Dispatcher, '_add_signal_handler', lambda *_: None)
    monkeypatch.setattr('logging.config.dictConfig', lambda _: None)
    outcome = CliRunner().invoke(cli, [f'worker.{queue}'])
    assert outcome.exception is None, outcome.output
    assert [type(built) for built in ran] == [Dispatcher]
    assert ran[0].queue_name == own_options(getattr(worker, queue))['queue_name']
    assert 'uvloop' in type(ran[0].loop).__module__


# Redis settings.


def test_from_dsn_would_not_decode_the_password_and_drop_tls_options(tmp_path: Path) -> None:
    server_tls_context(tmp_path)
    ca = str(tmp_path / CERTIFICATE_NAME)
    url = f'rediss://:p%40ss@localhost:6379/1?ssl_ca_certs={ca}'
    theirs, ours = RedisSettings.from_dsn(url), redis_settings(url)
    assert (theirs.password, theirs.ssl_ca_certs, theirs.ssl_check_hostname) == (
        'p%40ss',
        None,
        False,
    )
    assert (ours.password, ours.ssl_ca_certs, ours.ssl_check_hostname) == ('p@ss', ca, True)


# Cron.


@pytest.mark.parametrize(
    ('name', 'every'),
    [
        ('process_pending_emails', timedelta(minutes=5)),
        ('check_service_health', timedelta(minutes=1)),
        ('count_history', timedelta(minutes=1)),
        ('fetch_reports', timedelta(minutes=1)),
        ('apply_feedback', timedelta(minutes=1)),
        ('cleanup_expired_emails', timedelta(hours=1)),
        ('cleanup_old_sessions', timedelta(days=1)),
    ],
)
@pytest.mark.parametrize(
    'start', ['2026-02-28T23:58:17', '2026-10-25T00:59:59', '2027-01-01T00:00:00.5']
)
def test_arq_runs_each_schedule_at_the_start_of_its_slots(
    name: str, every: timedelta, start: str
) -> None:
    job = next(job for job in cron_jobs(10, SCHEDULES) if job.name == f'cron:{name}')
    schedule = next(schedule.duty for schedule in SCHEDULES if schedule.duty.name == name)
    assert schedule.every_s == every.total_seconds()
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    expected_s = (moment.timestamp() // schedule.every_s + 1) * schedule.every_s
    for _ in range(5):
        job.calculate_next(moment)
        assert job.next_run is not None
        moment = job.next_run
        assert moment.replace(microsecond=0) == datetime.fromtimestamp(expected_s, UTC)
        expected_s += schedule.every_s


def test_every_schedule_is_an_arq_cron_job_and_fires_once_per_slot_over_all_workers() -> None:
    jobs = cron_jobs(10, SCHEDULES)
    assert [job.name for job in jobs] == [f'cron:{schedule.duty.name}' for schedule in SCHEDULES]
    for job in jobs:
        assert (job.unique, job.job_id, job.run_at_startup, job.timeout_s) == (
            True,
            None,
            False,
            10,
        )


def test_arqs_own_cron_would_skip_what_it_missed() -> None:
    """Next runs live in memory and a failed run is not repeated; hence the keeper in cron.py."""

    async def duty(_: Any) -> None:
        pass

    job = cron(duty, minute=0)
    assert (job.next_run, job.max_tries) == (None, 1)


# Producers and results.


async def test_job_of_a_stock_producer_is_read_without_pickle_loads(fake: FakeRedis) -> None:
    redis = fake.client()
    await redis.enqueue_job('send_email', 123, _job_id='j1', note='ü')
    data = await redis.get('arq:job:j1')
    assert deserialize_job_raw(data, deserializer=deserialize)[:3] == (
        'send_email',
        (123,),
        {'note': 'ü'},
    )
    assert pickle.loads(data) == deserialize(data)


async def test_known_job_id_is_not_queued_again_while_its_result_is_kept(fake: FakeRedis) -> None:
    redis = fake.client()
    await redis.set(result_key_prefix + 'send_email:1', b'done')
    assert await redis.enqueue_job('send_email', 1, _job_id='send_email:1') is None
    assert await redis.enqueue_job('send_email', 1, _job_id='send_email:1:token') is not None


async def test_job_ids_are_global_over_queues(fake: FakeRedis) -> None:
    redis = fake.client()
    assert (
        await redis.enqueue_job('send_email', 1, _job_id='j1', _queue_name='high_priority')
        is not None
    )
    assert (
        await redis.enqueue_job('send_email', 1, _job_id='j1', _queue_name='low_priority') is None
    )


def written_result(result: Any, *, success: bool) -> bytes:
    data = serialize_result(
        'send_email',
        (1,),
        {},
        1,
        0,
        success,
        result,
        0,
        0,
        'ref',
        'arq:queue',
        'j1',
        serializer=serialize,
    )
    assert data is not None
    return data


async def test_stock_client_reads_our_result(fake: FakeRedis) -> None:
    redis = fake.client()
    result = {'email_id': 1, 'status': 'sent', 'attempts': 1}
    await redis.set(result_key_prefix + 'j1', written_result(result, success=True))
    assert await Job('j1', redis).result(timeout=1) == result


@pytest.mark.parametrize(
    ('error', 'plain'),
    [
        (ValueError('wrong'), {'error': 'ValueError', 'message': 'wrong'}),
        (TimeoutError(), {'error': 'TimeoutError', 'message': ''}),
        (SerializationError('unable'), {'error': 'SerializationError', 'message': 'unable'}),
    ],
)
async def test_stock_client_reads_our_failure_as_plain_values(
    fake: FakeRedis, error: Exception, plain: Any
) -> None:
    redis = fake.client()
    await redis.set(result_key_prefix + 'j1', written_result(error, success=False))
    with pytest.raises(SerializationError) as raised:
        await Job('j1', redis).result(timeout=1)
    assert raised.value.args == (plain,)
    info = await Job('j1', redis).result_info()
    assert info is not None
    assert (info.success, info.result) == (False, plain)
