"""Take over from Celery, or go back: `ops import-celery`.

Its table is adopted, and the e-mails that messages in its Redis are about become due.
"""

import argparse

from ops.answer import Answer
from ops.arguments import add_change, add_json
from ops.celery.broker import SET_ASIDE_KEY
from ops.celery.connect import open_broker
from ops.celery.messages import Meaning
from ops.celery.options import ImportOptions
from ops.celery.output import render_import
from ops.celery.take import Import
from ops.celery.undo import Undo
from ops.connect import Connections
from ops.mail_filter import text_value

MAPPINGS = {
    'send_email': Meaning.SEND,
    'retry_failed_email': Meaning.RETRY,
    'duty': Meaning.DUTY,
    'ignore': Meaning.OTHER,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        '--queue', action='append', type=text_value, metavar='NAME',
        help="a list of Celery's even if nothing in it looks like that; all others are found",
    )  # fmt: skip
    parser.add_argument(
        '--db',
        type=database,
        metavar='N',
        help="of Celery's broker, if it is not CELERY_BROKER_URL's or the queue's",
    )
    parser.add_argument(
        '--key-prefix',
        default='',
        metavar='TEXT',
        help="the broker's global_keyprefix, for --queue",
    )
    parser.add_argument(
        '--task', action='append', type=task_meaning, default=[], metavar='NAME=MEANING',
        help='what a task of another name means, remembered from then on: send_email, '
        "retry_failed_email, duty (one of beat's that is ours now), ignore (about something else: "
        'stays where it is)',
    )  # fmt: skip
    parser.add_argument(
        '--set-aside',
        action='store_true',
        help=f'move messages of other tasks, too, to {SET_ASIDE_KEY}:*',
    )
    parser.add_argument('--force', action='store_true', help='although Celery seems to be running')
    parser.add_argument(
        '--undo',
        action='store_true',
        help='the way back: put the messages back, then undo the adoption',
    )
    add_change(parser)
    add_json(parser)


def database(text: str) -> int:
    """Read the number of a Redis database."""
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of a database')
    return int(text)


def task_meaning(text: str) -> tuple[str, Meaning]:
    """Read app.tasks.deliver=send_email."""
    name, _, meaning = text.rpartition('=')
    if not name or meaning not in MAPPINGS:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not NAME=MEANING with one of {", ".join(MAPPINGS)}'
        )
    return name, MAPPINGS[meaning]


render = render_import


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Open Celery's Redis, and go one way or the other."""
    chosen = ImportOptions(
        queues=options.queue or (),
        key_prefix=options.key_prefix,
        tasks=dict(options.task),
        database=options.db,
        set_aside=options.set_aside,
        dry_run=options.dry_run,
        force=options.force,
        yes=options.yes,
    )
    async with open_broker(connections.settings, options.db) as broker:
        return await (Undo if options.undo else Import)(connections, broker, chosen).run()
