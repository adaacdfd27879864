"""Jobs that a worker could not run: told in its record (fleet/registry.py), so that not only its log knows."""

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNREADABLE = 'unreadable'  # of another serializer, or no plain values
UNKNOWN_FUNCTION = 'unknown-function'
ARGUMENTS = 'arguments'  # the function does not take them, or the id is none
SET_ASIDE = 'set-aside'  # it held or ended the workers that began it
REASONS = (UNREADABLE, UNKNOWN_FUNCTION, ARGUMENTS, SET_ASIDE)

MAX_TOLD = 20  # of a worker; all are counted
MAX_WHY_CHARS = 200
MAX_ID = 2**63 - 1
LARGEST = 2**53
MAX_JSON_BYTES = 64 * 1024

REMEDIES = {
    UNREADABLE: "have their producer enqueue plain values with arq's default serializer",
    UNKNOWN_FUNCTION: 'correct the name in their producer, or start a worker that has the function',
    ARGUMENTS: 'correct their producer: send_email takes one id',
    SET_ASIDE: 'see what they made the workers do in their logs; the e-mails are in the outbox',
}


def email_id_of(value: Any) -> int | None:
    """Return the e-mail id that a value stands for: a positive integer, or one in decimal digits; None for others."""
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 < value <= MAX_ID else None


def email_id_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the e-mail id that a job was given, as far as can be told."""
    return email_id_of(args[0] if args else kwargs.get('email_id'))


def read_json_job(body: bytes) -> tuple[str | None, int | None]:
    """Return function and e-mail id of a job that was written as JSON; (None, None) for any other."""
    if body[:1] != b'{' or len(body) > MAX_JSON_BYTES:
        return None, None
    try:
        job = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    function, args, kwargs = (job.get(key) for key in 'fak')
    email_id = email_id_among(
        args if isinstance(args, list) else (), kwargs if isinstance(kwargs, dict) else {}
    )
    return function[:100] if isinstance(function, str) else None, email_id


class RefusedJobs:
    """What one worker refused since its start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._latest: deque[dict[str, Any]] = deque(maxlen=MAX_TOLD)

    def add(
        self,
        reason: str,
        job_id: str,
        why: str,
        *,
        function: str | None = None,
        email_id: int | None = None,
    ) -> None:
        """Note one. reason is one of REASONS, why a sentence."""
        self.counts[reason] += 1
        self._latest.append({
            'reason': reason,
            'job_id': job_id[:MAX_WHY_CHARS],
            'function': function[:MAX_WHY_CHARS] if function is not None else None,
            'email_id': email_id,
            'why': why[:MAX_WHY_CHARS],
            'at': round(time.time(), 3),
        })  # fmt: skip

    def latest(self) -> list[dict[str, Any]]:
        """Return the last few, the oldest first.

        Each has reason, job_id, why, at (seconds since 1970), and function and email_id where they
        are known.
        """
        return list(self._latest)


def told(refused: Iterable[Any], email_id: int | None = None) -> list[dict[str, Any]]:
    """Return what workers told of jobs they refused, the latest first; whoever may write to Redis can write anything.

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
