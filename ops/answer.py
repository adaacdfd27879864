"""What a command hands back: a document for machines, and the problems it met."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field

from reporting.problems import FINE, PROBLEM, Document, Problem
from reporting.wording import counted


@dataclass(slots=True)
class Answer:
    """A finished command. The document holds plain values, datetimes and UUIDs."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    streamed: bool = False  # it was printed as it happened
    email_ids: Sequence[int] = ()  # what was changed, for the audit

    @property
    def exit_status(self) -> int:
        """1 when a server is unreachable, for then nobody can speak of the workers.

        Otherwise the highest that there is a reason for.
        """
        if any(problem.service for problem in self.problems):
            return PROBLEM
        return max((problem.ends_with for problem in self.problems), default=FINE)


def unchanged_problems(unchanged: Sized) -> list[Problem]:
    """Say how many e-mails were left as they are."""
    what = f'{counted(len(unchanged))} not changed'
    return [Problem(what, 'see the reasons')] if unchanged else []
