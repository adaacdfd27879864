"""Jobs about e-mails: their functions' names, and the e-mail that a job names."""

from collections.abc import Mapping, Sequence
from typing import Any

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
