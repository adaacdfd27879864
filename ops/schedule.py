"""When an e-mail that relays defer is tried again, as the settings are now."""

import argparse

from rich.console import Console

from mail_outbox.envelope import BY_LIFE
from ops.answer import Answer
from ops.arguments import add_json, attempts, hours
from ops.connect import Connections
from ops.output import print_table
from reporting.problems import Document
from reporting.wording import length

ENDS = {
    'expires': 'It expires then, unless one of these attempts succeeds.',
    'exhausted': 'It is dead after the last of them (dead_reason exhausted).',
}
UNCOUNTED = (
    'A relay that cannot be reached, does not greet, gives no TLS or does not let us in costs no '
    'attempt: mail waits for it until it expires.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        '--max-attempts', type=attempts, metavar='N', help='of a row with this number of its own'
    )
    life = parser.add_mutually_exclusive_group()
    life.add_argument(
        '--hours', type=hours, metavar='H', help='of a row that expires after H hours'
    )
    life.add_argument('--no-expiry', action='store_true', help='of a row without expires_at')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Compute the times; nobody is asked."""
    settings = connections.settings
    policy = settings.retry_policy
    max_attempts = options.max_attempts or BY_LIFE
    life_s = None if options.no_expiry else (options.hours or settings.email_expiry_hours) * 3600.0
    times_s = policy.times_s(max_attempts, life_s)
    most = policy.most_attempts(max_attempts, expires=life_s is not None)
    return Answer({
        'base_delay_s': policy.base_delay_s,
        'max_delay_s': policy.max_delay_s,
        'max_attempts': None if most >= BY_LIFE else most,
        'expires_after_s': life_s,
        'ends': 'exhausted' if len(times_s) >= most else 'expires',
        'attempts': [
            {'attempt': number, 'after_s': at_s, 'wait_s': at_s - before_s}
            for number, (at_s, before_s) in enumerate(
                zip(times_s, [0.0, *times_s], strict=False), start=1
            )
        ],
    })  # fmt: skip


def render(document: Document, console: Console) -> None:
    """Print the table, and how it ends."""
    print_table(
        console,
        'Attempts; each wait may be a tenth shorter',
        ('attempt', 'after the first', 'wait'),
        ((a['attempt'], length(a['after_s']), length(a['wait_s'])) for a in document['attempts']),
    )
    if document['expires_after_s'] is not None:
        console.print(f'It expires {length(document["expires_after_s"])} after it was queued.')
    console.print(ENDS[document['ends']])
    console.print(UNCOUNTED)
