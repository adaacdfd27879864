"""Which e-mails are meant, as operators say it: conditions that must all be true."""

import re
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta

from db.email_list import LAST_ID
from db.selection import DEAD, RETRYING, MailConditions, Selection, read_clock
from mail_outbox.states import Status
from reporting.problems import Document
from reporting.servers import Servers

# What an operator calls the states.
STATE_WORDS = (
    *(status.value for status in Status if status is not Status.EXTERNAL), RETRYING, DEAD
)  # fmt: skip
MAIL_DOMAIN = re.compile(r'@?([\w-]+\.)+[\w-]{2,}', re.UNICODE)
OTHERWISE_CALLED = {'email_type': 'type'}  # as the option is
LONG_AGO = timedelta(days=36525)  # what is asked for as 999999999d has no date


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as an operator names it: so long ago by the database's clock, or at a time."""

    ago_s: float | None = None
    at: datetime | None = None

    def by(self, now: datetime) -> datetime:
        """Return the time it means."""
        return self.at or now - min(timedelta(seconds=self.ago_s or 0.0), LONG_AGO)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailFilter(MailConditions[Moment]):
    """Conditions as operators say them."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no condition."""
        return all(value is None for value in astuple(self))


def id_in(text: str) -> int | None:
    """Return the id of an e-mail that a person wrote, as 123 or #123; None: it is none."""
    digits = text.removeprefix('#')
    is_id = digits.isascii() and digits.isdigit() and len(digits) < 20
    return int(digits) if is_id and 0 < int(digits) <= LAST_ID else None


def meant_by(text: str) -> dict[str, str]:
    """Return the condition that a person's words are: whatever he has of an e-mail.

    Args:
        text: An address, @domain, <Message-ID>, or words of the subject; '' is no condition.
    Returns:
        recipient, domain, message_id or subject_like, as in MailConditions.
    """
    if not text:
        return {}
    if text.startswith('<') and text.endswith('>'):
        return {'message_id': text}
    if MAIL_DOMAIN.fullmatch(text):
        return {'domain': text.removeprefix('@')}
    if '@' in text and ' ' not in text:
        return {'recipient': text.strip('<>')}
    return {'subject_like': text}


async def make_selection(
    servers: Servers, conditions: MailFilter, statuses: tuple[str, ...] | None
) -> Selection:
    """Return what the conditions say; lengths of time count from the database's now."""
    now = await servers.ask_postgres(read_clock)
    values = {field.name: getattr(conditions, field.name) for field in fields(conditions)}
    for name in ('since', 'until'):
        values[name] = values[name].by(now) if values[name] else None
    return Selection(statuses=statuses, **values)


def described_selection(selection: Selection) -> Document:
    """Return the conditions for a document, without those that are not set."""
    named: Document = {'status': selection.statuses and list(selection.statuses)}
    for field in fields(MailConditions):
        named[OTHERWISE_CALLED.get(field.name, field.name)] = getattr(selection, field.name)
    return {name: value for name, value in named.items() if value is not None}
