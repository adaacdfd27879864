"""What a command hands back: a document for machines, and the troubles it met, which decide the exit status."""

from dataclasses import dataclass, field

from reporting.problems import FINE, NO_WORKER, NOBODY_REPLIED, TROUBLE, Document, Level, Trouble

__all__ = [
    'FINE',
    'NOBODY_REPLIED',
    'NO_WORKER',
    'TROUBLE',
    'USAGE',
    'Answer',
    'Document',
    'Level',
    'Trouble',
    'TroubleError',
]

USAGE = 2


class TroubleError(Exception):
    """The command cannot go on."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.line)
        self.trouble = trouble


@dataclass(slots=True)
class Answer:
    """A finished command. The document holds plain values, datetimes and UUIDs."""

    document: Document
    troubles: list[Trouble] = field(default_factory=list)
    streamed: bool = False  # it was printed as it happened

    @property
    def exit_status(self) -> int:
        """1 when a server is away, for then nobody can speak of the workers; else the highest there is a reason for."""
        if any(trouble.service for trouble in self.troubles):
            return TROUBLE
        return max((trouble.ends_with for trouble in self.troubles), default=FINE)
