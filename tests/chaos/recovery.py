"""How long a fault held up the e-mails it touched, in seconds."""

import itertools
from collections.abc import Mapping

from tests.chaos.invariants import Evidence

PROMISED_S = 35.0  # README.md, docs/delivery-guarantee.md


def after_kills(evidence: Evidence, kills: Mapping[str, float]) -> list[float]:
    """From each kill to what came next for every e-mail it left behind.

    Its delivery, or at least its next attempt.
    """
    found = []
    for email in evidence.emails:
        attempts = evidence.of(email)
        for lost, following in itertools.pairwise(attempts):
            if lost['outcome'] == 'lost' and lost['worker'] in kills:
                sending_s = (
                    following['duration_ms'] / 1000 if following['outcome'] == 'accepted' else 0.0
                )
                found.append(following['started_at'] + sending_s - kills[lost['worker']])
    return found


def beyond_promise(evidence: Evidence, kills: Mapping[str, float]) -> list[str]:
    """Tell of the e-mails that a kill held up for longer than PROMISED_S.

    One that was lost twice is a suspect, sent by itself when all others had their turn: nothing is
    promised about it.
    """
    found = []
    for email in evidence.emails:
        attempts = evidence.of(email)
        if sum(attempt['outcome'] == 'lost' for attempt in attempts) > 1:
            continue
        for lost, following in itertools.pairwise(attempts):
            if lost['outcome'] != 'lost' or lost['worker'] not in kills:
                continue
            wait_s = following['started_at'] - kills[lost['worker']]
            if wait_s > PROMISED_S:
                found.append(f'{email["id"]} after {wait_s:.1f} s')
    if not found:
        return []
    return [
        (
            f'{len(found)} e-mails did not go out again within {PROMISED_S:.0f} s of the '
            f'kill: {", ".join(found[:5])}'
        )
    ]


def after_outage(evidence: Evidence, end_at: float) -> list[float]:
    """From the end of an outage to the delivery of what was queued before it and not delivered."""
    return [
        email['sent_at'] - end_at
        for email in evidence.emails
        if email['created_at'] < end_at and (email['sent_at'] or 0) > end_at
    ]


def during(evidence: Evidence, start_at: float, end_at: float) -> list[float]:
    """From being queued, or the fault if later, to the delivery, of what was under way at any
    moment of the fault.
    """
    return [
        email['sent_at'] - max(start_at, email['created_at'])
        for email in evidence.emails
        if email['created_at'] < end_at and (email['sent_at'] or 0) > start_at
    ]
