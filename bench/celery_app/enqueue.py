"""Queue one task per id read from standard input: `python -m bench.celery_app.enqueue QUEUE`."""

import json
import sys

from bench.celery_app.app import app, send_email


def main() -> None:
    """Read a JSON list of ids, publish all of them over one connection."""
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
        for email_id in json.load(sys.stdin):
            send_email.apply_async((email_id,), queue=sys.argv[1], producer=producer)


if __name__ == '__main__':
    main()
