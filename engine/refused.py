"""Jobs that a worker could not run: kept for its record, so that not only its log knows of them."""

import json
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

UNREADABLE = 'unreadable'  # of another serializer, or no plain values
UNKNOWN_FUNCTION = 'unknown-function'
ARGUMENTS = 'arguments'  # the function does not take them, or the id is none
SET_ASIDE = 'set-aside'  # it blocked or ended the workers that began it
REASONS = (UNREADABLE, UNKNOWN_FUNCTION, ARGUMENTS, SET_ASIDE)

MAX_KEPT = 20  # of a worker; all are counted
MAX_WHY_CHARS = 200
MAX_JSON_BYTES = 64 * 1024

Arguments = tuple[Sequence[Any], Mapping[str, Any]]


def read_json_job(body: bytes) -> tuple[str | None, Arguments]:
    """Return function and arguments of a job in JSON; (None, ((), {})) for any other.

    Producers with another arq, or none, write such jobs; they cannot be run, but their e-mail or
    the like can be named to the operator.
    """
    if body[:1] != b'{' or len(body) > MAX_JSON_BYTES:
        return None, ((), {})
    try:
        job = json.loads(body)
    except (ValueError, RecursionError):
        return None, ((), {})
    function, args, kwargs = (job.get(key) for key in 'fak')
    arguments = (
        args if isinstance(args, list) else (),
        kwargs if isinstance(kwargs, dict) else {},
    )
    return function[:100] if isinstance(function, str) else None, arguments


class RefusedJobs:
    """What one worker refused since its start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._latest: deque[dict[str, Any]] = deque(maxlen=MAX_KEPT)

    def add(
        self,
        reason: str,
        job_id: str,
        why: str,
        *,
        function: str | None = None,
        **subject: int | str | None,
    ) -> None:
        """Note one.

        Args:
            reason: One of REASONS.
            why: A sentence.
            subject: What the job is about, such as email_id, as far as it is known.
        """
        self.counts[reason] += 1
        self._latest.append({
            'reason': reason,
            'job_id': job_id[:MAX_WHY_CHARS],
            'function': function[:MAX_WHY_CHARS] if function is not None else None,
            **subject,
            'why': why[:MAX_WHY_CHARS],
            'at': round(time.time(), 3),
        })  # fmt: skip

    def latest(self) -> list[dict[str, Any]]:
        """Return the last few, the oldest first.

        Each has reason, job_id, why, at (seconds since 1970), function where it is known, and its
        subject.
        """
        return list(self._latest)
