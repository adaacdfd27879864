"""What became of a job: what `celery result` said."""

import argparse
from functools import partial

from rich.console import Console

from ops.answer import Answer
from ops.arguments import add_json
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table
from reporting.jobs import find_job, job_document, job_problems
from reporting.problems import Document
from reporting.wording import length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('job', type=text_value, metavar='JOB', help="the job's id")
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read it; a job that failed or left its e-mail unsent, and an unknown one, is a problem."""
    job = await connections.ask_redis(partial(find_job, job_id=options.job))
    return Answer(job_document(job), job_problems(job))


def render(document: Document, console: Console) -> None:
    """Print what is known."""
    render_job(document, console)


def render_job(job: Document, console: Console) -> None:
    """Print a job's state as a table of names and values."""
    known = job | {'kept for': None if job['kept_for_s'] is None else length(job['kept_for_s'])}
    rows = [
        (name.replace('_', ' '), value)
        for name, value in known.items()
        if value is not None and name not in ('job_id', 'kept_for_s')
    ]
    print_table(console, f'Job {job["job_id"]}', ('', ''), rows)
