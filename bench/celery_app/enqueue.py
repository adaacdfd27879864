"""Queue tasks: `python -m bench.celery_app.enqueue QUEUE [--paced]`.

All at once, or with --paced one at a time.

All at once: a JSON list of ids on standard input. Paced: a line with an id is answered, once it is
queued, by a line with the time at which queuing it began, in nanoseconds of the machine's monotonic
clock.
"""

import json
import sys
import time

from bench.celery_app.app import app, send_email


def main() -> None:
    """Publish over one connection."""
    queue = sys.argv[1]
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
        if '--paced' not in sys.argv:
            for email_id in json.load(sys.stdin):
                send_email.apply_async((email_id,), queue=queue, producer=producer)
            return
        print('ready', flush=True)
        for line in sys.stdin:
            began_at_ns = time.monotonic_ns()
            send_email.apply_async((int(line),), queue=queue, producer=producer)
            print(began_at_ns, flush=True)


if __name__ == '__main__':
    main()
