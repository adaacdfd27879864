"""Put a job into a queue, as `celery call` did; with --wait, say what became of it."""

import argparse
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from delivery.email_jobs import EMAIL_JOBS
from engine.queues import QUEUES
from engine.results import JobState, wait_for_job
from engine.wire import MAX_JOB_BYTES, serialize
from fleet.registry import read_served_queues
from fleet.routing import EMAIL_QUEUE, MAINTENANCE_QUEUE
from ops.answer import NO_WORKER, USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed, duration_s, email_id
from ops.connect import QUEUE, Connections
from ops.live import read_living
from ops.mail_filter import text_value
from ops.output import counted, say
from ops.result import as_document, render_job, troubles_of

HELP = 'run a job: send_email 123, retry_failed_email 123, or one of the duties'

# What our workers run, and what each takes. tests/services/test_ops_call.py holds it against
# worker.py.
JOBS: dict[str, tuple[Callable[[str], Any], ...]] = {
    'send_email': (email_id,),
    'retry_failed_email': (email_id,),
    'process_pending_emails': (),
    'check_service_health': (),
    'cleanup_expired_emails': (),
    'cleanup_old_sessions': (),
}
WAIT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('function', type=text_value, help=', '.join(JOBS))
    parser.add_argument(
        'arguments', type=text_value, nargs='*', metavar='ARGUMENT', help='numbers, JSON, or text'
    )
    parser.add_argument(
        '--queue', type=text_value, metavar='NAME', help='default: where our own jobs go'
    )
    parser.add_argument(
        '--defer-by',
        type=duration_s,
        default=0.0,
        metavar='TIME',
        help='not before 30s, 5m, 2h ...',
    )
    parser.add_argument(
        '--wait',
        type=duration_s,
        nargs='?',
        const=WAIT_S,
        metavar='TIME',
        help='for the result; 60s if not said',
    )
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Enqueue the job; a queue nobody serves is said, not refused: a worker may be on its way."""
    queue = options.queue or queue_for(options.function, routed=connections.settings.queue_routing)
    arguments = read_arguments(options.function, options.arguments, queue)
    told = ' '.join((options.function, *options.arguments))
    document: Document = {
        'dry_run': options.dry_run, 'function': options.function, 'arguments': arguments, 'queue': queue
    }  # fmt: skip
    served = await connections.ask_redis(partial(is_served, name=queue))
    troubles = [] if served else [nobody_serves(queue)]
    if options.dry_run:
        return Answer(document, troubles)
    if not confirmed(
        options, f'Put {told} into {queue}{"" if served else ", which nobody serves"}?'
    ):
        raise TroubleError(Trouble('not confirmed, nothing was queued', 'answer y, or give --yes'))
    putting = partial(
        put, function=options.function, arguments=arguments, queue=queue, defer_s=options.defer_by
    )
    document['job_id'] = await connections.ask_redis(putting)
    if options.wait is not None:
        job: JobState = await connections.ask_redis(
            partial(wait_for_job, job_id=document['job_id'], queues=[queue], timeout_s=options.wait)
        )
        document['job'] = as_document(job)
        troubles = [
            *([] if job.state == 'complete' else troubles),
            *troubles_of(job, waited_s=options.wait),
        ]
    return Answer(document, troubles)


def queue_for(function: str, *, routed: bool) -> str:
    """Return the queue that a job of ours goes to: with QUEUE_ROUTING, by its kind."""
    if not routed:
        return QUEUE
    return EMAIL_QUEUE if function in EMAIL_JOBS else MAINTENANCE_QUEUE


def read_arguments(function: str, texts: list[str], queue: str) -> list[Any]:
    """Read a job's arguments; those of our own jobs are checked, others are JSON, or else text.

    Raises:
        TroubleError: no worker of ours could run this.
    """
    takes = JOBS.get(function)
    if takes is None and queue in QUEUES:
        known = ', '.join(JOBS)
        raise TroubleError(
            Trouble(
                f'{function!r} is no job of our workers', f'give one of {known}', exit_status=USAGE
            )
        )
    if takes is None:
        arguments = [_value(text) for text in texts]
        if len(serialize({'a': arguments})) > MAX_JOB_BYTES // 2:
            raise TroubleError(
                Trouble(
                    'the arguments are too long', 'pass an id, not the content', exit_status=USAGE
                )
            )
        return arguments
    if len(texts) != len(takes):
        raise TroubleError(
            Trouble(
                f'{function} takes {counted(len(takes), "argument")}, not {len(texts)}',
                'see --help',
                exit_status=USAGE,
            )
        )
    try:
        return [read(text) for read, text in zip(takes, texts, strict=True)]
    except argparse.ArgumentTypeError as error:
        raise TroubleError(
            Trouble(str(error), 'see `python -m ops failed` for ids', exit_status=USAGE)
        ) from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


async def is_served(redis: ArqRedis, name: str) -> bool:
    """Whether a worker polls this queue."""
    return name in await read_served_queues(redis, await read_living(redis), [name])


def nobody_serves(queue: str) -> Trouble:
    """Say that the job will wait."""
    return Trouble(
        f'nobody serves the queue {queue}', 'start a worker for it', exit_status=NO_WORKER
    )


async def put(
    redis: ArqRedis, *, function: str, arguments: list[Any], queue: str, defer_s: float
) -> str:
    """Enqueue a job. Returns its id."""
    defer = timedelta(seconds=defer_s) if defer_s else None
    job = await redis.enqueue_job(function, *arguments, _queue_name=queue, _defer_by=defer)
    if job is None:  # the id is random: somebody else's job has it only by a miracle
        raise TroubleError(Trouble('Redis knows a job of this id already', 'try again'))
    return job.job_id


def render(document: Document, console: Console) -> None:
    """Print the job's id, and what became of it."""
    call = ' '.join(map(str, (document['function'], *document['arguments'])))
    if document['dry_run']:
        say(console, f'Would put {call} into {document["queue"]}; nothing was changed.')
    else:
        say(console, f'{call} is in {document["queue"]} as job {document["job_id"]}.')
        if 'job' in document:
            render_job(document['job'], console)
