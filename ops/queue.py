"""What is in the queues: the honest form of `redis-cli LLEN celery`."""

import argparse
from dataclasses import asdict
from functools import partial

from rich.console import Console

from fleet.queued_jobs import read_jobs, wrong_key_hint
from ops.answer import Answer
from ops.arguments import add_json, add_limit
from ops.connect import Connections
from ops.fleet_tables import render_queues
from ops.output import print_table
from reporting.live import read_fleet_now
from reporting.problems import USAGE, Document, Problem, ProblemError, queue_problems
from reporting.wording import length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'what',
        choices=('ls', 'peek'),
        help='count the jobs of each queue, or list the first of them',
    )
    parser.add_argument('--queue', metavar='NAME', help='only this one')
    add_limit(parser, 20)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read the queues.

    A queue with jobs that nobody serves is a problem, and so is a key in a queue's place.
    """
    fleet = await connections.ask_redis(read_fleet_now)
    if options.queue is not None:
        fleet['queues'] = [queue for queue in fleet['queues'] if queue['name'] == options.queue]
        if not fleet['queues']:
            what = f'{options.queue!r} is no queue'
            raise ProblemError(Problem(what, 'see `python -m ops queue ls`', exit_status=USAGE))
    problems = queue_problems(fleet) + [
        Problem(queue['problem'], wrong_key_hint(queue['problem']))
        for queue in fleet['queues']
        if queue['problem']
    ]
    document: Document = {'queues': fleet['queues']}
    if options.what == 'peek':
        names = [queue['name'] for queue in fleet['queues']]
        jobs = await connections.ask_redis(partial(read_jobs, names=names, limit=options.limit))
        document['jobs'] = [asdict(job) for job in jobs]
    return Answer(document, problems)


def render(document: Document, console: Console) -> None:
    """Print the table of queues, or of their jobs."""
    if 'jobs' not in document:
        render_queues(document, console)
        return
    total = sum(
        queue['ready'] + queue['deferred'] + queue['running'] for queue in document['queues']
    )
    print_table(
        console,
        f'Jobs ({len(document["jobs"])} of {total})',
        ('job', 'queue', 'state', 'function', 'e-mail', 'wanted at', 'tries', 'lock ends in',
         'bytes', 'problem'),
        (
            (j['job_id'], j['queue'], j['state'], j['function'], j['email_id'], j['wanted_at'],
             j['tries'], length(j['lock_ends_in_s']), j['body_bytes'], j['problem'])
            for j in document['jobs']
        ),
    )  # fmt: skip
