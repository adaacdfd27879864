"""What a command hands back: a document for machines, and the troubles it met."""

from collections.abc import Sized
from dataclasses import dataclass, field

from reporting.problems import FINE, TROUBLE, Document, Trouble
from reporting.wording import counted


@dataclass(slots=True)
class Answer:
    """A finished command. The document holds plain values, datetimes and UUIDs."""

    document: Document
    troubles: list[Trouble] = field(default_factory=list)
    streamed: bool = False  # it was printed as it happened

    @property
    def exit_status(self) -> int:
        """1 when a server is unreachable, for then nobody can speak of the workers.

        Otherwise the highest that there is a reason for.
        """
        if any(trouble.service for trouble in self.troubles):
            return TROUBLE
        return max((trouble.ends_with for trouble in self.troubles), default=FINE)


def unchanged_troubles(unchanged: Sized) -> list[Trouble]:
    """Say how many e-mails were left as they are."""
    what = f'{counted(len(unchanged))} not changed'
    return [Trouble(what, 'see the reasons')] if unchanged else []
