"""What an import from Celery found and did, counted, and its tables."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console

from ops.answer import Document, Trouble
from ops.celery.broker import IMPORTED_KEY, SET_ASIDE_KEY
from ops.celery.messages import Meaning, Message
from ops.celery.unknown import UnknownTasks
from ops.output import counted, print_table, say

SAMPLES = 20
MAX_NAMES = 200  # of lists that are told apart: whoever may write to Redis may write any
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
    'expired': 'expired: stays so, see retry',
    'uncertain': 'may have been delivered: waits for `ops resolve` or `ops retry`',
    'external': 'sent by the previous system, or left to it',
    'missing': 'no such e-mail',
    'unknown task': 'a task nobody here knows: stays, or is moved out of the way',
    'other task': 'about something else, as --task said: stays, or is moved out of the way',
    'unreadable': 'cannot be understood',
}
TOLD = ('missing', 'unreadable', 'uncertain', 'task expired')  # of these, samples are shown
UNUSABLE = ('missing', 'unreadable')  # moved out of the way
NOT_OURS = ('unknown task', 'other task')


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
            if outcome in TOLD and sum(s['outcome'] == outcome for s in self.samples) < SAMPLES:
                self.samples.append({
                    'outcome': outcome, 'source': source, 'task': message.task, 'email_id': message.email_id,
                    'problem': message.problem,
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

    def troubles(self, *, set_aside: bool) -> list[Trouble]:
        """Name what nobody took over."""
        found = []
        if unusable := sum(self.outcomes[name] for name in UNUSABLE):
            cannot = counted(unusable, 'message cannot', 'messages cannot')
            found.append(
                Trouble(
                    f'{cannot} be used, see the samples',
                    f'kept under {SET_ASIDE_KEY}:*, --undo puts them back',
                )
            )
        about_open = self.unknown.trouble()
        if about_open:
            found.append(about_open)
        if set_aside:
            return found
        names = self.unknown.names
        if left := self.outcomes['unknown task'] - self.moved['unknown task']:
            remedy = '--task NAME=send_email says what a task means; --set-aside moves the rest out of the way'
            of = (
                'message of an unknown task stays in Redis',
                'messages of unknown tasks stay in Redis',
            )
            found.append(Trouble(f'{counted(left, *of)}: {names}', remedy))
        remedy = f'kept under {SET_ASIDE_KEY}:*, in their order; --undo puts them back'
        if moved := self.moved['unknown task']:
            of = (
                "message of an unknown task is in the way of our queue's name",
                "messages of unknown tasks are in our queues' way",
            )
            found.append(Trouble(f'{counted(moved, *of)}: {names}', remedy))
        if moved := self.moved['other task']:
            of = (
                "message of another task is in the way of our queue's name",
                "messages of other tasks are in our queues' way",
            )
            found.append(Trouble(counted(moved, *of), remedy))
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
    if outcome in ('due', 'held') and has_lapsed(message, now):
        return 'task expired'
    return outcome if outcome in MEANINGS else 'sending'


def has_lapsed(message: Message, now: datetime) -> bool:
    """Whether Celery would drop the task instead of running it."""
    return message.expires is not None and message.expires <= now


def render_import(document: Document, console: Console) -> None:
    """Print what was found, and what became of it."""
    if 'put_back' in document:
        render_undo(document, console)
        return
    schema: dict[str, Any] = document['schema']
    would = 'would be ' if document['dry_run'] else ''
    if schema['missing']:
        say(
            console,
            f'The schema {would or "was "}brought up to date: {", ".join(schema["missing"])}.',
        )
    if schema['emails'] is None:
        say(console, 'There was no outbound_emails.')
    else:
        print_table(console, 'E-mails before', ('status', 'e-mails'), schema['emails'].items())
    print_table(
        console,
        f'Messages in {document["broker"]}',
        ('in', 'messages'),
        document['sources'].items(),
    )
    rows = ((name, count, MEANINGS[name]) for name, count in document['outcomes'].items())
    print_table(
        console,
        'What becomes of them' if would else 'What became of them',
        ('', 'messages', ''),
        rows,
    )
    if document['unknown_tasks']:
        about_open: dict[str, dict[str, int]] = document['unknown_about_open']
        rows = (
            (
                name,
                count,
                *(about_open.get(name, {}).get(key, 0) for key in ('about_open', 'with_eta')),
            )
            for name, count in document['unknown_tasks'].items()
        )
        columns = ('task', 'messages', 'name e-mails not sent yet', 'of these with an ETA')
        print_table(console, 'Unknown tasks', columns, rows)
    if document['samples']:
        samples = (
            (s['outcome'], s['source'], s['task'], s['email_id'], s['problem'])
            for s in document['samples']
        )
        print_table(console, 'To look at', ('', 'in', 'task', 'e-mail', 'problem'), samples)
    _print_notes(document, console)
    _print_table_side(document, console)
    if document['dry_run']:
        say(console, 'Nothing was changed.')
    elif document['messages']:
        say(console, f'What was taken is kept under {IMPORTED_KEY}:*, in its order, for --undo.')


def _print_notes(document: Document, console: Console) -> None:
    if document['latest_eta']:
        say(
            console,
            f'Messages with an ETA keep it; the last is for {document["latest_eta"]:%Y-%m-%d %H:%M:%SZ}.',
        )
    if document['by_header']:
        told = counted(document['by_header'], 'message is', 'messages are')
        say(console, f'{told} in no JSON: the headers name the e-mail, the body was not read.')
    if document['goes_on']:
        say(
            console,
            f'Other tasks were to follow {document["goes_on"]} of them (chains, callbacks): nobody runs those.',
        )
    if document['results']:
        say(
            console,
            "Results of Celery's tasks (celery-task-meta-*) are left alone: they lapse by themselves.",
        )
    if document['signs']['producers']:
        puts = counted(document['signs']['producers'], 'client puts', 'clients put')
        say(
            console,
            f'{puts} messages here, or did last: beat, or an application that was not deployed yet.',
        )
    if document['signs']['growing']:
        say(
            console,
            f'Messages come into {", ".join(document["signs"]["growing"][:5])}: somebody still asks Celery.',
        )
    for unknown in document['signs']['unknown']:
        say(console, f'Not known: {unknown}.')


def _print_table_side(document: Document, console: Console) -> None:
    if document.get('forecast'):
        rows = (
            (f['fate'], f['status'], f['emails'], f['oldest_due_at'], f['first_id'])
            for f in document['forecast']
        )
        columns = ('the first start', 'status', 'e-mails', 'the oldest due at', 'for example')
        print_table(console, 'What becomes of e-mails without a message', columns, rows)
    if document.get('taken_over') is not None:
        print_table(
            console,
            'The table was taken over',
            ('became', 'e-mails'),
            document['taken_over'].items(),
        )


def render_undo(document: Document, console: Console) -> None:
    """Print what went back to Celery, and what did not."""
    would = 'would be ' if document['dry_run'] else ''
    print_table(
        console, f'Messages {would}put back', ('to', 'messages'), document['put_back'].items()
    )
    if document['stay_kept']:
        ended = counted(document['stay_kept'], 'message is', 'messages are')
        say(
            console,
            f'{ended} about e-mails that were sent, refused or given up here: not put back, so not sent twice.',
        )
    for name in document['queues_moved']:
        say(console, f'Our queue {name} {would or "was "}renamed: Celery has a list of that name.')
    if document['given_back'] is not None:
        print_table(
            console, 'E-mails given back', ('state', 'e-mails'), document['given_back'].items()
        )
    if document['dry_run']:
        say(console, 'Nothing was changed.')
