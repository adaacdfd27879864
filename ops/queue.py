"""What is in the queues: the honest form of `redis-cli LLEN celery`."""

import argparse

from rich.console import Console

from ops.answer import Answer, Document
from ops.arguments import add_json
from ops.connect import Connections
from ops.live import queue_troubles, read_fleet, render_queues

HELP = 'ls: ready, deferred and running jobs of every queue'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('what', choices=('ls',), help='list the queues')
    add_json(parser)


async def run(connections: Connections, _: argparse.Namespace) -> Answer:
    """Read the queues. A queue with jobs that nobody serves is trouble."""
    fleet = await connections.ask_redis(read_fleet)
    return Answer({'queues': fleet['queues']}, queue_troubles(fleet))


def render(document: Document, console: Console) -> None:
    """Print the table."""
    render_queues(document, console)
