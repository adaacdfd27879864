"""One thing the doctor noticed."""

from dataclasses import dataclass
from enum import StrEnum

from reporting.kinds import is_settled
from reporting.problems import Level, Problem


class Severity(StrEnum):
    """How grave; only notes leave the exit status 0.

    An error is to be acted on, the others are to be looked at.
    """

    ERROR = 'error'  # mail is lost, late or refused, now or when the next thing goes wrong
    WARNING = 'warning'  # it works, with less safety or speed than it could
    NOTE = 'note'  # worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what to do."""

    severity: Severity
    what: str
    remedy: str
    away: str | None = None  # the server without which the check was not made, or only in part
    kind: str | None = None  # in reporting.judge.KINDS, of what the judge found


def error(what: str, remedy: str) -> Finding:
    """Return an error."""
    return Finding(Severity.ERROR, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """Return a warning."""
    return Finding(Severity.WARNING, what, remedy)


def note(what: str, remedy: str) -> Finding:
    """Return a note."""
    return Finding(Severity.NOTE, what, remedy)


def from_judge(problem: Problem) -> Finding:
    """Return what reporting.judge found.

    What is settled is only noted, so that it alone is no failure.
    """
    if problem.level is Level.ACT:
        severity = Severity.ERROR
    else:
        severity = Severity.NOTE if is_settled(problem) else Severity.WARNING
    return Finding(severity, problem.what, problem.remedy, kind=problem.kind)


def unreachable(problem: Problem) -> Finding:
    """Return what a server that does not answer is."""
    where = f'{problem.service} at {problem.place}: ' if problem.service else ''
    return Finding(Severity.ERROR, f'{where}{problem.what}', problem.remedy, problem.service)


LEVELS = {Severity.ERROR: Level.ACT, Severity.WARNING: Level.LOOK, Severity.NOTE: Level.LOOK}
