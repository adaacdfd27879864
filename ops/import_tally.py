"""What an import from Celery found and did, counted, and its tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from fleet.celery_broker import IMPORTED_FOR_S, IMPORTED_KEY
from fleet.celery_messages import Meaning, Message
from ops.answer import Document, Trouble
from ops.output import counted, print_table, say

SAMPLES = 20

# What became of a message, by what became of its e-mail. The first three need nothing of anybody.
MEANINGS = {
    'due': 'made due, or due already',
    'sent': 'sent already',
    'duty': "a duty of beat's: our own cron runs it",
    'sending': 'being sent now, or when the table was adopted',
    'cancelled': 'cancelled: stays so',
    'expired': 'expired: stays so, see retry',
    'uncertain': 'may have been delivered: waits for `ops resolve` or `ops retry`',
    'missing': 'no such e-mail',
    'unknown task': 'a task nobody here knows',
    'unreadable': 'cannot be understood',
}
LEFT = ('missing', 'unknown task', 'unreadable')  # these stay in Redis


class Tally:
    """Counts of messages, by source, outcome and task."""

    def __init__(self) -> None:
        self.messages = 0
        self.sources: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.unknown_tasks: Counter[str] = Counter()
        self.samples: list[Document] = []

    @property
    def due(self) -> int:
        """How many messages are about e-mails that are due now."""
        return self.outcomes['due']

    def add(self, source: str, messages: Sequence[Message], outcomes: Mapping[int, str]) -> None:
        """Count a batch.

        Args:
            outcomes: What became of each e-mail, see db.adoption.
        """
        self.messages += len(messages)
        self.sources[source] += len(messages)
        for message in messages:
            outcome = outcome_of(message, outcomes)
            self.outcomes[outcome] += 1
            if outcome == 'unknown task':
                self.unknown_tasks[message.task or ''] += 1
            if outcome in ('missing', 'unreadable', 'uncertain') and len(self.samples) < SAMPLES:
                self.samples.append({'outcome': outcome, 'email_id': message.email_id, 'problem': message.problem})

    def as_document(self) -> Document:
        """Return the counts."""
        return {
            'messages': self.messages,
            'sources': dict(self.sources),
            'outcomes': {name: self.outcomes[name] for name in MEANINGS if self.outcomes[name]},
            'unknown_tasks': dict(self.unknown_tasks),
            'samples': self.samples,
        }

    def troubles(self, set_aside: bool) -> list[Trouble]:
        """Name what nobody took."""
        left = sum(self.outcomes[name] for name in LEFT)
        if not left or set_aside:
            return []
        remedy = '--task NAME=send_email says what a task means; --set-aside moves the rest out of the way'
        return [Trouble(f'{counted(left, "message stays", "messages stay")} in Redis', remedy)]


def outcome_of(message: Message, outcomes: Mapping[int, str]) -> str:
    """Return what became of a message, a key of MEANINGS."""
    if message.problem is not None:
        return 'unreadable'
    if message.meaning is Meaning.DUTY:
        return 'duty'
    if message.meaning is None or message.email_id is None:
        return 'unknown task'
    outcome = outcomes.get(message.email_id, 'missing')
    return outcome if outcome in MEANINGS else 'sending'


def render_import(document: Document, console: Console) -> None:
    """Print what was found, and what became of it."""
    schema: dict[str, Any] = document['schema']
    would = 'would be ' if document['dry_run'] else ''
    if schema['missing']:
        say(console, f'The schema {would or "was "}brought up to date: {", ".join(schema["missing"])}.')
    if schema['emails'] is None:
        say(console, 'There was no outbound_emails.')
    else:
        print_table(console, 'E-mails before', ('status', 'e-mails'), schema['emails'].items())
    print_table(console, 'Messages', ('in', 'messages'), document['sources'].items())
    rows = ((name, count, MEANINGS[name]) for name, count in document['outcomes'].items())
    print_table(console, 'What becomes of them' if would else 'What became of them', ('', 'messages', ''), rows)
    if document['unknown_tasks']:
        print_table(console, 'Unknown tasks', ('task', 'messages'), document['unknown_tasks'].items())
    if document['samples']:
        samples = ((s['outcome'], s['email_id'], s['problem']) for s in document['samples'])
        print_table(console, 'To look at', ('', 'e-mail', 'problem'), samples)
    if document['dry_run']:
        say(console, 'Nothing was changed.')
    elif document['messages']:
        say(console, f'What was taken is kept in the list {IMPORTED_KEY} for {IMPORTED_FOR_S // 86400} days.')
