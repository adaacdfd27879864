"""Jobs about e-mails: their functions' names, the e-mail that a job names, and its result."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

log = structlog.get_logger()

JobResult = dict[str, Any]  # {'email_id': 123, 'status': 'sent', 'attempts': 1}
EMAIL_JOBS = ('send_email', 'retry_failed_email')
MAX_ID = 2**63 - 1  # PostgreSQL's bigint


def email_id_of(value: Any) -> int | None:
    """Return the e-mail id that a value stands for; None for others.

    An id is a positive integer, or one in decimal digits.
    """
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 < value <= MAX_ID else None


def email_id_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the e-mail id that a job was given, as far as it can be read."""
    return email_id_of(args[0] if args else kwargs.get('email_id'))


def subject_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int | str | None]:
    """Return the subject of a refused job for its record, see engine.refused."""
    return {'email_id': email_id_among(args, kwargs)}


def not_claimable(email_id: Any, state: str | None, reason: str) -> JobResult:
    """Return the result of a job that had nothing to do."""
    plain_id = email_id if isinstance(email_id, int) else repr(email_id)[:80]
    log.info('email.not_claimable', email_id=plain_id, state=state, reason=reason)
    return {'email_id': plain_id, 'status': 'not-claimable', 'state': state, 'reason': reason}
