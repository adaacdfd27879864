"""One thing that is wrong: what, how grave, and what to do about it. reporting.judge finds them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reporting.wording import counted

Document = dict[str, Any]

# Exit statuses; 69 is what `celery status` ends with when nobody replies, 75 is EX_TEMPFAIL.
FINE, PROBLEM, USAGE, NO_WORKER, STILL_WAITING = 0, 1, 2, 69, 75


class Level(StrEnum):
    """How grave, from the least to the most."""

    OK = 'ok'
    LOOK = 'look'  # it works, or an operator wanted it so: worth a look by day
    ACT = 'act'  # mail is lost, late or refused until somebody does something


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    service and place are set when a server does not do its part.
    """

    what: str
    remedy: str
    service: str | None = None
    place: str | None = None
    exit_status: int = PROBLEM
    level: Level = Level.ACT
    kind: str | None = None  # its name in reporting.judge.KINDS

    @property
    def line(self) -> str:
        """For people: one line."""
        where = f'{self.service} at {self.place}: ' if self.service else ''
        return ' '.join(f'{where}{self.what}; {self.remedy}'.split())

    @property
    def ends_with(self) -> int:
        """The exit status of a command that met only this: what is worth a look is no failure."""
        return self.exit_status if self.level is Level.ACT else FINE

    def as_document(self) -> Document:
        """For machines; no password is in any part."""
        return {
            'level': self.level.value, 'kind': self.kind, 'service': self.service,
            'place': self.place, 'what': self.what, 'remedy': self.remedy,
        }  # fmt: skip


class ProblemError(Exception):
    """What was asked cannot be answered or done; the problem says why, and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.line)
        self.problem = problem


INTERRUPTED = Problem('interrupted', 'run it again to go on', exit_status=130)
NOBODY_REPLIED = Problem(
    'no worker replied',
    'start one with `arq worker.WorkerSettings`, or read its log',
    exit_status=NO_WORKER,
    kind='no_worker',
)


SETTINGS_FOR = {
    'arq:queue': 'worker.WorkerSettings',
    'high_priority': 'worker.HighPriority',
    'low_priority': 'worker.LowPriority',
}


def is_alive(fleet: Document) -> bool:
    """Whether any worker replied, by its record or by arq's health key."""
    return bool(fleet['workers']) or any(queue['served'] for queue in fleet['queues'])


def queue_problems(fleet: Document) -> list[Problem]:
    """Name the queues whose jobs nobody will run."""
    return [
        Problem(
            f'nobody serves the queue {queue["name"]}, '
            f'which has {counted(queue["ready"] + queue["deferred"], "job")}',
            f'start `arq {SETTINGS_FOR[queue["name"]]}`'
            if queue['name'] in SETTINGS_FOR
            else 'start a worker for it, or see who puts jobs there',
            kind='unserved_queue',
        )
        for queue in fleet['queues']
        if not queue['served'] and queue['ready'] + queue['deferred']
    ]
