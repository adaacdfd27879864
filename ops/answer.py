"""What a command hands back: a document for machines, and the troubles it met, which decide the exit status."""

from dataclasses import dataclass, field
from typing import Any

FINE, TROUBLE, USAGE, NO_WORKER = 0, 1, 2, 69  # 69 is what `celery status` ends with when nobody replies

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and what to do about it. service and place when a server does not do its part."""

    what: str
    remedy: str
    service: str | None = None
    place: str | None = None
    exit_status: int = TROUBLE

    @property
    def line(self) -> str:
        """For people: one line."""
        where = f'{self.service} at {self.place}: ' if self.service else ''
        return ' '.join(f'{where}{self.what}; {self.remedy}'.split())

    def as_document(self) -> Document:
        """For machines; no password is in any part."""
        return {'service': self.service, 'place': self.place, 'what': self.what, 'remedy': self.remedy}


NOBODY_REPLIED = Trouble(
    'no worker replied', 'start one with `arq worker.WorkerSettings`, or read its log', exit_status=NO_WORKER
)


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
        return max((trouble.exit_status for trouble in self.troubles), default=FINE)
