"""Jobs that workers refused, as their records report them, and what an operator does about each."""

from collections.abc import Iterable
from typing import Any

from engine.refused import ARGUMENTS, REASONS, SET_ASIDE, UNKNOWN_FUNCTION, UNREADABLE
from fleet.registry import LARGEST

REMEDIES = {
    UNREADABLE: "have their producer enqueue plain values with arq's default serializer",
    UNKNOWN_FUNCTION: 'correct the name in their producer, or start a worker that has the function',
    ARGUMENTS: 'correct their producer: send_email takes one id',
    SET_ASIDE: 'see what they made the workers do in their logs; the e-mails are in the outbox',
}


def reported_refusals(refused: Iterable[Any], email_id: int | None = None) -> list[dict[str, Any]]:
    """Return what workers reported of jobs they refused, the latest first.

    Whoever may write to Redis can write anything: what is no such report is left out.

    Args:
        refused: WorkerRecord.refused_jobs of all workers.
        email_id: Only what concerns this e-mail.
    """
    fit = [
        job
        for job in refused
        if isinstance(job, dict)
        and job.get('reason') in REASONS
        and isinstance(job.get('why'), str)
        and isinstance(job.get('job_id'), str)
        and type(job.get('at')) in (int, float)
        and 0 <= job['at'] < LARGEST
        and (email_id is None or job.get('email_id') == email_id)
    ]
    return sorted(fit, key=lambda job: float(job['at']), reverse=True)
