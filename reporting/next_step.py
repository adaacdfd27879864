"""In one sentence: what happens to an e-mail next, and who must do something if nothing does."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from db.states import CLAIMED, TRIED
from fleet.registry import WorkerRecord
from mail_outbox.states import Status
from reporting.wording import cell, length, tried


def next_step(email: Mapping[str, Any], *, has_worker: bool | None) -> str:
    """Say what happens next.

    Args:
        email: A row of db.reports.read_email; its read_at is what is compared with.
        has_worker: Whether a worker is alive; None when nobody knows.
    """
    sentence, needs_worker = _next(email)
    if needs_worker and has_worker is False:
        return f'{sentence} But no worker replies: start one.'
    return sentence


def where_now(email: Mapping[str, Any], workers: Iterable[WorkerRecord]) -> dict[str, Any] | None:
    """Return worker, phase, relay and since_s of the attempt under way, as its worker reports.

    None when no worker reports it.
    """
    for worker in workers:
        for reported in worker.emails:
            if isinstance(reported, dict) and reported.get('id') == email['id']:
                since_s = reported.get('started_at')
                return {
                    'worker': worker.worker,
                    'phase': reported.get('phase'),
                    'relay': reported.get('relay'),
                    'since_s': max(0.0, time.time() - since_s)
                    if isinstance(since_s, int | float)
                    else None,
                    'told_s': worker.seen_ago_s,
                }
    return None


def tries_again(email: Mapping[str, Any]) -> bool:
    """Whether an attempt follows by itself."""
    if email['status'] == Status.PENDING:
        return True
    has_attempts = email['next_retry_at'] is not None and email['attempts'] < email['max_attempts']
    return email['status'] in TRIED and has_attempts


def _next(email: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the sentence, and whether a worker must be alive for it to come true."""
    again = _again(email)
    match email['status']:
        case 'sent':
            return (
                f'Nothing: {email["relay"] or "a relay"} accepted it at {cell(email["sent_at"])}.',
                False,
            )
        case 'bounced' | 'complained':
            return _came_back(email, again), False
        case 'expired' | 'cancelled':
            return _over_unsent(email, again), False
        case 'held':
            return (
                f'It waits for you: `python -m ops held release {email["id"]}` sends it now, '
                f'`python -m ops held cancel {email["id"]}` cancels it.'
            ), False
        case 'external':
            return (
                'Nothing here: the system that was there before sends it, or has sent it. '
                'What it has not sent is sent from here after `python -m db.migrate --take-over`.'
            ), False
        case 'sending':
            return _sending(email), True
        case 'failed' if not tries_again(email):
            return (
                f'Nothing: it is dead ({email["dead_reason"] or "no attempt is left"}); {again}',
                False,
            )
        case 'uncertain' if not tries_again(email):
            return (
                'It waits for you: the relay may have delivered it or not. '
                f'Look for {email["message_id"]} in its log; {again}'
            ), False
        case status if status not in CLAIMED:
            return f'Nothing: it is {status}; {again}', False
        case _:
            return _waiting(email), True


def _again(email: Mapping[str, Any]) -> str:
    if email['is_emptied']:
        return 'what it said is deleted (EMAIL_DROP_CONTENT): queue a new one.'
    return f'`python -m ops retry {email["id"]}` sends it again.'


def _came_back(email: Mapping[str, Any], again: str) -> str:
    when = cell(email['feedback_at'])
    if email['status'] == Status.COMPLAINED:
        return f'Nothing: a recipient complained at {when}.'
    return f'Nothing: it bounced at {when}; {again}'


def _over_unsent(email: Mapping[str, Any], again: str) -> str:
    if email['status'] == Status.CANCELLED:
        return f'Nothing: it was cancelled; {again}'
    return f'Nothing: it was not sent before {cell(email["expires_at"])}; {again}'


def _sending(email: Mapping[str, Any]) -> str:
    if email['lease_expires_at'] is None:  # of a table that another program writes
        return (
            'It is marked as being sent, by nobody who would say so; '
            '`UPDATE` its status to pending sends it.'
        )
    left_s = (email['lease_expires_at'] - email['read_at']).total_seconds()
    if left_s < 0:
        return (
            f'{email["claimed_by"]} stopped renewing its lease; '
            'the next beat of any worker takes it over.'
        )
    attempt = tried(email['attempts'], email['max_attempts'])
    return (
        f'{email["claimed_by"]} is sending it, attempt {attempt}; '
        f'if that worker dies, another takes over in {length(left_s)}.'
    )


def _waiting(email: Mapping[str, Any]) -> str:
    now: datetime = email['read_at']
    if email['expires_at'] is not None and email['expires_at'] <= now:
        return (
            'It is not sent any more: its expires_at is over, and the hourly cleanup will say so.'
        )
    due: datetime | None = email['next_retry_at']
    # An operator's `SET status = 'pending'` on an exhausted row gives one attempt more.
    attempt = (
        f'attempt {tried(email["attempts"] + 1, max(email["max_attempts"], email["attempts"] + 1))}'
    )
    repeated = (
        ', with the same Message-ID: the first may have been delivered'
        if email['status'] == 'uncertain'
        else ''
    )
    if due is None or due <= now:
        return (
            f'It is due: the next free worker or sweep (every 5 minutes) makes {attempt}{repeated}.'
        )
    if email['expires_at'] is not None and email['expires_at'] <= due:
        left_s = (email['expires_at'] - now).total_seconds()
        return f'It expires in {length(left_s)}, before another attempt would be due.'
    in_ = length((due - now).total_seconds())
    return f'In {in_}, at {cell(due)}, a worker makes {attempt}{repeated}.'
