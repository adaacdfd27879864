"""Put a job into a queue, as `celery call` did; with --wait, say what became of it."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from actions.call import JOBS, CalledJob, CallPlan, JobCall, call_job, queue_for
from actions.safety import RequestError
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm, duration_s, email_id
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import say
from ops.result import render_job
from reporting.jobs import job_document
from reporting.problems import Document

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
    function, texts = options.function, options.arguments
    queue = options.queue or queue_for(function, routed=connections.settings.queue_routing)
    call = JobCall(function, queue, read_values(function, texts), options.defer_by, options.wait)
    called = await call_job(
        connections, call, dry_run=options.dry_run, confirm=asking(texts, yes=options.yes)
    )
    return called_answer(called)


def asking(texts: Sequence[str], *, yes: bool) -> Callable[[CallPlan], None]:
    """Return what asks whether a job is to be queued.

    Args:
        texts: Its arguments as they were given.
    """

    def ask(plan: CallPlan) -> None:
        job = ' '.join((plan.call.function, *texts))
        nobody = '' if plan.is_served else ', which nobody serves'
        confirm(f'Put {job} into {plan.call.queue}{nobody}?', yes=yes, nothing='queued')

    return ask


def called_answer(called: CalledJob) -> Answer:
    """Return what a command says of a job that was queued, or would be."""
    document: Document = {
        'dry_run': called.dry_run,
        'function': called.call.function,
        'arguments': list(called.call.arguments),
        'queue': called.call.queue,
    }
    if called.job_id is not None:
        document['job_id'] = called.job_id
    if called.job is not None:
        document['job'] = job_document(called.job)
    return Answer(document, called.problems)


def read_values(function: str, texts: Sequence[str]) -> list[Any]:
    """Read a job's arguments: those of our own jobs are ids, others are JSON, or else text.

    Raises:
        RequestError: one of our jobs gets no id.
    """
    if len(texts) != JOBS.get(function):  # of another system, or refused because of the number
        return [_value(text) for text in texts]
    try:
        return [email_id(text) for text in texts]
    except argparse.ArgumentTypeError as error:
        raise RequestError(str(error), 'see `python -m ops failed` for ids') from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def render(document: Document, console: Console) -> None:
    """Print the job's id, and what became of it."""
    job = ' '.join(map(str, (document['function'], *document['arguments'])))
    if document['dry_run']:
        say(console, f'Would put {job} into {document["queue"]}; nothing was changed.')
    else:
        say(console, f'{job} is in {document["queue"]} as job {document["job_id"]}.')
        if 'job' in document:
            render_job(document['job'], console)
