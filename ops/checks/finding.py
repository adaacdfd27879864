"""One thing the doctor noticed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from ops.answer import Trouble
from ops.connect import Connections


class Severity(StrEnum):
    """How grave; only notes leave the exit status 0."""

    ERROR = 'error'  # mail is lost, late or refused, now or when the next thing goes wrong
    WARNING = 'warning'  # it works, with less safety or speed than it could
    NOTE = 'note'  # worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what to do."""

    severity: Severity
    what: str
    remedy: str
    away: str | None = None  # the server without which the check could not be made, or only in part


def error(what: str, remedy: str) -> Finding:
    """Return an error."""
    return Finding(Severity.ERROR, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """Return a warning."""
    return Finding(Severity.WARNING, what, remedy)


def note(what: str, remedy: str) -> Finding:
    """Return a note."""
    return Finding(Severity.NOTE, what, remedy)


def away(trouble: Trouble) -> Finding:
    """Return what a server that does not answer is."""
    where = f'{trouble.service} at {trouble.place}: ' if trouble.service else ''
    return Finding(Severity.ERROR, f'{where}{trouble.what}', trouble.remedy, trouble.service)


Check = Callable[[Connections], Awaitable[list[Finding]]]
