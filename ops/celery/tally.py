"""What an import from Celery found and did, counted."""

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from db.states import CAME_BACK, OVER_UNSENT
from mail_outbox.states import Status
from ops.celery.broker import SET_ASIDE_KEY
from ops.celery.messages import Meaning, Message
from reporting.problems import Document, Problem
from reporting.wording import counted

SAMPLES = 20
# Of lists, and of tasks, that are counted apart: who may write to Redis may write any.
MAX_NAMES = 200
MOST_NAMED = 5  # of them, in one line
MAX_IDS = 1000
OTHERS = '(others)'

# What became of a message, by what became of its e-mail.
MEANINGS = {
    'due': 'made due, or due already; at the time the message asks for',
    'held': 'due too long ago: an operator releases or cancels it, see `ops held`',
    'task expired': 'Celery would have dropped the task: its e-mail is held, see `ops held`',
    'sent': 'sent already',
    'duty': "a duty of beat's: our own cron runs it",
    'sending': 'being sent now, or when the table was adopted',
    'cancelled': 'cancelled: stays so',
    **{
        ended.value: f'{ended}: stays so, see retry'
        for ended in OVER_UNSENT
        if ended is not Status.CANCELLED
    },
    **{status.value: f'sent already, and {status}' for status in CAME_BACK},
    'uncertain': 'may have been delivered: waits for `ops resolve` or `ops retry`',
    'external': 'sent by the previous system, or left to it',
    'missing': 'no such e-mail',
    'unknown task': 'a task nobody here knows: stays, or is moved out of the way',
    'other task': 'about something else, as --task said: stays, or is moved out of the way',
    'unreadable': 'cannot be understood',
}
SAMPLED = ('missing', 'unreadable', 'uncertain', 'task expired')  # of these, samples are shown
UNUSABLE = ('missing', 'unreadable')  # moved out of the way
NOT_OURS = ('unknown task', 'other task')


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
        return ', '.join(f'{name} ({task.messages})' for name, task in tasks[:MOST_NAMED])

    def as_document(self) -> Document:
        """Return the counts."""
        return {
            'unknown_tasks': {name: task.messages for name, task in self.by_name.items()},
            'unknown_about_open': {name: asdict(task) for name, task in self.about_open.items()},
        }

    def problem(self) -> Problem | None:
        """Name those that seem to send e-mails, and the options that say whether they do.

        None when there are none.
        """
        tasks = self.about_open
        if not tasks:
            return None
        messages = sum(task.about_open for task in tasks.values())
        of = (
            'message of an unknown task names an e-mail that is',
            'messages of unknown tasks name e-mails that are',
        )
        named = ', '.join(
            f'{name} ({_messages_of(task)})' for name, task in list(tasks.items())[:MOST_NAMED]
        )
        more = f' and {len(tasks) - MOST_NAMED} more tasks' if len(tasks) > MOST_NAMED else ''
        return Problem(
            f'{counted(messages, *of)} not sent yet: {named}{more}', options_for(list(tasks))
        )


def _messages_of(task: UnknownTask) -> str:
    return (
        f'{task.about_open}, {task.with_eta} with an ETA' if task.with_eta else str(task.about_open)
    )


def options_for(names: Sequence[str]) -> str:
    """Say how an operator gives the meaning of tasks."""
    given = ' '.join(
        shlex.join(['--task', f'{name}=send_email'])
        for name in names[:MOST_NAMED]
        if name != OTHERS
    )
    return (
        f'`{given}` takes them over as e-mails to send, =retry_failed_email as asked for again; '
        '=ignore leaves them'
    )


class Tally:
    """Counts of messages, by source, outcome and task."""

    def __init__(self, *, is_dry: bool = False) -> None:
        self.is_dry = is_dry  # counts what would be done
        self.messages = 0
        self.sources: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.unknown = UnknownTasks()
        self.moved: Counter[str] = Counter()  # of NOT_OURS: out of the way
        self.by_header = 0
        self.goes_on = 0
        self.latest: datetime | None = None  # of the times that messages ask for
        self.unreadable_ids: list[int] = []
        self.samples: list[Document] = []

    @property
    def due(self) -> int:
        """How many messages are about e-mails that are due now or later."""
        return self.outcomes['due']

    @property
    def stays(self) -> int:
        """How many messages are left where they are."""
        return sum(self.outcomes[name] - self.moved[name] for name in NOT_OURS)

    def add(
        self,
        source: str,
        messages: Sequence[Message],
        outcomes: Sequence[str],
        *,
        others_move: bool,
        open_ids: Collection[int],
        now: datetime,
    ) -> None:
        """Count a batch.

        Args:
            outcomes: What became of each message, a key of MEANINGS.
            others_move: Those of NOT_OURS are moved out of the way.
            open_ids: Of e-mails that are neither sent nor given up, as far as messages of unknown
                tasks name any.
        """
        self.messages += len(messages)
        _count(self.sources, source, len(messages))
        for message, outcome in zip(messages, outcomes, strict=True):
            self.outcomes[outcome] += 1
            if outcome == 'unknown task':
                self.unknown.add(message, open_ids, now)
            if outcome in NOT_OURS:
                self.moved[outcome] += others_move
            self.by_header += message.by_header
            self.goes_on += message.goes_on
            if message.by_header and message.email_id and len(self.unreadable_ids) < MAX_IDS:
                self.unreadable_ids.append(message.email_id)
            if message.not_before and outcome == 'due':
                self.latest = max(self.latest or message.not_before, message.not_before)
            if outcome in SAMPLED and sum(s['outcome'] == outcome for s in self.samples) < SAMPLES:
                self.samples.append({
                    'outcome': outcome, 'source': source, 'task': message.task,
                    'email_id': message.email_id, 'problem': message.problem,
                })  # fmt: skip

    def as_document(self) -> Document:
        """Return the counts."""
        return {
            'messages': self.messages,
            'sources': dict(self.sources),
            'outcomes': {name: self.outcomes[name] for name in MEANINGS if self.outcomes[name]},
            **self.unknown.as_document(),
            'by_header': self.by_header,
            'by_header_ids': self.unreadable_ids,
            'goes_on': self.goes_on,
            'latest_eta': self.latest,
            'samples': self.samples,
        }

    def problems(self, *, set_aside: bool) -> list[Problem]:
        """Name what nobody took over."""
        found = []
        if unusable := sum(self.outcomes[name] for name in UNUSABLE):
            cannot = counted(unusable, 'message cannot', 'messages cannot')
            found.append(
                Problem(
                    f'{cannot} be used, see the samples',
                    f'kept under {SET_ASIDE_KEY}:*, --undo puts them back',
                )
            )
        about_open = self.unknown.problem()
        if about_open:
            found.append(about_open)
        if set_aside:
            return found
        names = self.unknown.names
        if left := self.outcomes['unknown task'] - self.moved['unknown task']:
            remedy = (
                '--task NAME=send_email says what a task means; '
                '--set-aside moves the rest out of the way'
            )
            of = (
                'message of an unknown task stays in Redis',
                'messages of unknown tasks stay in Redis',
            )
            found.append(Problem(f'{counted(left, *of)}: {names}', remedy))
        remedy = f'kept under {SET_ASIDE_KEY}:*, in their order; --undo puts them back'
        if moved := self.moved['unknown task']:
            of = (
                "message of an unknown task is in the way of our queue's name",
                "messages of unknown tasks are in our queues' way",
            )
            found.append(Problem(f'{counted(moved, *of)}: {names}', remedy))
        if moved := self.moved['other task']:
            of = (
                "message of another task is in the way of our queue's name",
                "messages of other tasks are in our queues' way",
            )
            found.append(Problem(counted(moved, *of), remedy))
        return found


def _count(counter: Counter[str], name: str, number: int) -> None:
    counter[name if name in counter or len(counter) < MAX_NAMES else OTHERS] += number


def outcome_of(message: Message, outcomes: Mapping[int, str], now: datetime) -> str:
    """Return what became of a message, a key of MEANINGS.

    Args:
        outcomes: What became of each e-mail, see db.import_requests.
    """
    if message.problem is not None:
        return 'unreadable'
    if message.meaning is Meaning.DUTY:
        return 'duty'
    if message.meaning is Meaning.OTHER:
        return 'other task'
    if message.meaning is None or message.email_id is None:
        return 'unknown task'
    outcome = outcomes.get(message.email_id, 'missing')
    if outcome in ('due', 'held') and message.has_lapsed(now):
        return 'task expired'
    return outcome if outcome in MEANINGS else 'sending'
