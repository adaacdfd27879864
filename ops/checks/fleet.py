"""The workers and the queues: whether somebody is there, for every queue, and all are of one mind."""

from collections.abc import Iterator, Sequence

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError as RedisNoPermissionError

from fleet.registry import WorkerRecord
from ops.answer import Document
from ops.checks.finding import Finding, error, note, warning
from ops.connect import Connections
from ops.live import is_alive, queue_troubles, read_fleet, read_living
from ops.output import length

LAG_MS = 500.0


async def check(connections: Connections) -> list[Finding]:
    """Read the registry and the queues."""
    workers = await connections.ask_redis(read_living)
    try:
        fleet = await connections.ask_redis(_read_fleet)
    except NoPermissionError as forbidden:
        return [
            *([] if workers else [nobody()]),
            note(f'the queues cannot be looked at: {forbidden}', "use the operators' user of deploy/redis-users.acl"),
            *judge_workers(workers),
        ]
    return [*([] if is_alive(fleet) else [nobody()]), *judge_queues(fleet), *judge_workers(workers)]


async def _read_fleet(redis: ArqRedis) -> Document:
    try:
        return await read_fleet(redis)
    except RedisNoPermissionError as error:
        raise NoPermissionError(str(error)) from error


class NoPermissionError(Exception):
    """The user in ARQ_REDIS_URL may not look at the queues; a worker's need not."""


def judge_queues(fleet: Document) -> Iterator[Finding]:
    """Name the queues nobody serves, and keys that stand in a queue's place."""
    for trouble in queue_troubles(fleet):
        yield error(trouble.what, trouble.remedy)
    for queue in fleet['queues']:
        if queue.get('problem'):
            yield error(queue['problem'], 'rename or delete that key; arq cannot use the queue before')


def nobody() -> Finding:
    """Return that there is no worker."""
    return error('no worker replies: nothing is sent', 'start one with `arq worker.WorkerSettings`, or read its log')


def judge_workers(workers: Sequence[WorkerRecord]) -> Iterator[Finding]:
    """Compare the workers with each other."""
    for what, of in (('settings', 'settings'), ('versions', 'version')):
        told: dict[str, list[str]] = {}
        for worker in workers:
            if value := getattr(worker, of):
                told.setdefault(value, []).append(worker.worker)
        if len(told) > 1:
            groups = '; '.join(f'{value}: {", ".join(names[:3])}' for value, names in sorted(told.items()))
            remedy = 'restart those that were left out; `python -m ops inspect conf` shows the differences'
            yield warning(f'workers run with {len(told)} different {what} ({groups})', remedy)
    for worker in workers:
        if worker.loop_lag_ms > LAG_MS:
            yield warning(
                f'{worker.worker} hangs: its event loop was late by {length(worker.loop_lag_ms / 1000)}',
                'see `python -m ops control stacks`; lower WORKER_MAX_JOBS, or give it a CPU of its own',
            )
        if worker.loop_holds:
            where, email_ids = worker.last_hold.get('where', ''), worker.last_hold.get('email_ids', [])
            yield warning(
                f'{worker.worker} stood still for more than a second, {worker.loop_holds} times since its start; '
                f'the last time in {where!r:.100} for the e-mails {email_ids!r:.100}',
                "its log says 'loop held', with the code; look at these e-mails with `python -m ops show ID`",
            )
    paused = [worker for worker in workers if worker.state == 'paused']
    if paused and len(paused) == len(workers):
        why = '; '.join(dict.fromkeys(reason for worker in paused for reason in worker.paused))
        remedy = '`python -m ops control resume`, with --queue NAME for a queue, when the reason is gone'
        yield warning(f'every worker is paused: {why}', remedy)
