"""The application's part that queues e-mails: `python -m old_app.producer`.

Orders are JSON lines on standard input, each answered by a line: {"do": "seed", "kind": KIND,
"count": N, ...} and {"do": "rate", "per_s": N} for the load that goes on by itself. An e-mail
stands in the ledger once it is committed.
"""

import itertools
import json
import os
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from old_app.app import build_report, new_session, retry_failed_email, send_email
from old_app.configuration import MAX_ATTEMPTS, NAME, note, now
from old_app.model import EmailStatus, OutboundEmail, new_email

MONTH = timedelta(days=30)
# Of so many e-mails of the load one is committed and never queued: the process ended in between.
FORGETS_EVERY = 7
numbers = itertools.count()


def rows_of(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an e-mail of this kind."""
    moment = now()
    failed = {'status': EmailStatus.FAILED, 'created_at': moment - MONTH}
    return {
        'crashed': {'created_at': moment - timedelta(minutes=10)},
        'old pending': {'created_at': moment - MONTH},
        'old waiting': {'created_at': moment - MONTH},
        'old failed': failed
        | {'attempts': 2, 'next_retry_at': moment - MONTH + timedelta(hours=1)},
        'given up': failed | {'attempts': MAX_ATTEMPTS},
        'asked again': failed
        | {'attempts': MAX_ATTEMPTS, 'created_at': moment - timedelta(hours=3)},
        'sent before': {'status': EmailStatus.SENT, 'attempts': 1, 'created_at': moment - MONTH},
        'scheduled': {'next_retry_at': moment + timedelta(seconds=options.get('in_s', 0))},
        'tomorrow': {'next_retry_at': moment + timedelta(days=1)},
    }.get(kind, {})


def insert(kind: str, options: dict[str, Any]) -> int:
    """Commit one e-mail and write it down. Returns its id."""
    tag = '+4xx-twice' if kind == 'refused' else ''
    recipient = f'{NAME}-app{os.getpid()}-{next(numbers)}{tag}@example.com'
    due_at = time.time() + options['in_s'] if 'in_s' in options else None
    with new_session() as session:
        email = new_email(kind, recipient, **rows_of(kind, options))
        session.add(email)
        session.commit()
        note(event='inserted', id=email.id, recipient=recipient, kind=kind, not_before=due_at)
        return email.id


def queue(kind: str, email_id: int, options: dict[str, Any]) -> None:
    """Queue what this kind of e-mail has in the broker: every third goes where the defaults go."""
    if kind == 'asked again':
        retry_failed_email.delay(email_id)
    elif kind == 'eta':
        send_email.apply_async((email_id,), countdown=options['in_s'])
    elif kind in ('waiting', 'old waiting', 'refused', 'live'):
        elsewhere = {'queue': 'celery'} if email_id % 3 == 0 else {}
        priority = (
            {'priority': options['priorities'][email_id % 4]} if options.get('priorities') else {}
        )
        send_email.apply_async((email_id,), **elsewhere, **priority)


def seed(order: dict[str, Any]) -> list[int]:
    """Make e-mails of one kind, and their messages. Returns their ids."""
    ids = [insert(order['kind'], order) for _ in range(order['count'])]
    for email_id in ids:
        queue(order['kind'], email_id, order)
    return ids


class Load(threading.Thread):
    """Inserts and queues an e-mail every so often."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.per_s = 0.0
        self.forgets = True
        self.priorities: list[int] = []
        self.guard = threading.Lock()

    def run(self) -> None:
        for number in itertools.count(1):
            while not self.per_s:
                time.sleep(0.02)
            with self.guard:
                if self.per_s:
                    self.insert_one(number)
            time.sleep(1 / self.per_s if self.per_s else 0)

    def insert_one(self, number: int) -> None:
        """Queue one as the application does; what goes wrong is an error that its users see."""
        try:
            forgotten = self.forgets and number % FORGETS_EVERY == 0
            email_id = insert('forgotten' if forgotten else 'live', {})
            if not forgotten:
                queue('live', email_id, {'priorities': self.priorities})
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            note(
                event='application error', where='insert', error=f'{type(error).__name__}: {error}'
            )


def main() -> None:
    """Carry out orders until standard input ends."""
    load = Load()
    load.start()
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any = None
        if order['do'] == 'seed':
            answer = seed(order)
        elif order['do'] == 'reports':
            for number in range(order['count']):
                build_report.delay(number)
        elif order['do'] == 'rate':
            with load.guard:  # what was begun is done when the answer comes
                load.per_s, load.forgets = order['per_s'], order.get('forgets', True)
                load.priorities = order.get('priorities', [])
        elif order['do'] == 'rows':
            with new_session() as session:
                answer = session.query(OutboundEmail).count()
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer to an order


if __name__ == '__main__':
    main()
