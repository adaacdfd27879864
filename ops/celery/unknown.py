"""Messages of tasks that nobody here knows: whether they are about e-mails that wait, and how an operator says so."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from ops.answer import Document, Trouble
from ops.celery.messages import Message
from ops.output import counted

MAX_NAMES = 200  # of tasks that are told apart: whoever may write to Redis may write any
OTHERS = '(others)'
TOLD = 5  # of them, in one line


@dataclass(slots=True)
class UnknownTask:
    """How many messages of a task there are."""

    messages: int = 0
    about_open: int = (
        0  # their first argument is the id of an e-mail that is neither sent nor given up
    )
    with_eta: int = 0  # of these, Celery was not to run so many yet


class UnknownTasks:
    """The tasks by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, UnknownTask] = {}

    def add(self, message: Message, open_ids: Collection[int], now: datetime) -> None:
        """Count a message.

        Args:
            open_ids: Of e-mails that are neither sent nor given up.
        """
        name = message.task or ''
        if name not in self.by_name and len(self.by_name) >= MAX_NAMES:
            name = OTHERS
        task = self.by_name.setdefault(name, UnknownTask())
        task.messages += 1
        if message.may_mean in open_ids:
            task.about_open += 1
            task.with_eta += message.not_before is not None and message.not_before > now

    @property
    def about_open(self) -> Mapping[str, UnknownTask]:
        """Those that seem to send e-mails, the most frequent first."""
        found = [(name, task) for name, task in self.by_name.items() if task.about_open]
        return dict(sorted(found, key=lambda item: -item[1].about_open))

    @property
    def names(self) -> str:
        """The most frequent, with how many messages each."""
        tasks = sorted(self.by_name.items(), key=lambda item: -item[1].messages)
        return ', '.join(f'{name} ({task.messages})' for name, task in tasks[:TOLD])

    def as_document(self) -> Document:
        """Return the counts."""
        return {
            'unknown_tasks': {name: task.messages for name, task in self.by_name.items()},
            'unknown_about_open': {name: asdict(task) for name, task in self.about_open.items()},
        }

    def trouble(self) -> Trouble | None:
        """Name those that seem to send e-mails, and the options that say whether they do; None when there are none."""
        tasks = self.about_open
        if not tasks:
            return None
        messages = sum(task.about_open for task in tasks.values())
        of = (
            'message of an unknown task names an e-mail that is',
            'messages of unknown tasks name e-mails that are',
        )
        told = ', '.join(f'{name} ({_told(task)})' for name, task in list(tasks.items())[:TOLD])
        more = f' and {len(tasks) - TOLD} more tasks' if len(tasks) > TOLD else ''
        return Trouble(
            f'{counted(messages, *of)} not sent yet: {told}{more}', options_for(list(tasks))
        )


def _told(task: UnknownTask) -> str:
    return (
        f'{task.about_open}, {task.with_eta} with an ETA' if task.with_eta else str(task.about_open)
    )


def options_for(names: Sequence[str]) -> str:
    """Say how an operator tells what tasks mean."""
    given = ' '.join(
        shlex.join(['--task', f'{name}=send_email']) for name in names[:TOLD] if name != OTHERS
    )
    return f'`{given}` takes them over as e-mails to send, =retry_failed_email as asked for again; =ignore leaves them'
