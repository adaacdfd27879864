"""Which e-mails are meant, as operators say it: conditions that must all be true."""

from dataclasses import astuple, dataclass
from datetime import datetime, timedelta

from db.selection import Selection, read_clock
from reporting.problems import Document
from reporting.servers import Servers

LONG_AGO = timedelta(days=36525)  # what is asked for as 999999999d has no date


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as an operator names it: so long ago by the database's clock, or at a time."""

    ago_s: float | None = None
    at: datetime | None = None

    def by(self, now: datetime) -> datetime:
        """Return the time it means."""
        return self.at or now - min(timedelta(seconds=self.ago_s or 0.0), LONG_AGO)


@dataclass(frozen=True, slots=True)
class MailFilter:
    """Conditions, see db.selection.Selection; None is no condition."""

    since: Moment | None = None
    until: Moment | None = None
    error_like: str | None = None
    domain: str | None = None
    email_type: str | None = None
    relay: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    organization_id: str | None = None
    created_since: datetime | None = None
    created_until: datetime | None = None
    tag: str | None = None
    tag_value: str | None = None
    subject_like: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no condition."""
        return all(value is None for value in astuple(self))


async def make_selection(
    servers: Servers, conditions: MailFilter, statuses: tuple[str, ...] | None
) -> Selection:
    """Return what the conditions say; lengths of time count from the database's now."""
    now = await servers.ask_postgres(read_clock)
    return Selection(
        statuses=statuses,
        since=conditions.since.by(now) if conditions.since else None,
        until=conditions.until.by(now) if conditions.until else None,
        error_like=conditions.error_like,
        domain=conditions.domain,
        email_type=conditions.email_type,
        relay=conditions.relay,
        recipient=conditions.recipient,
        message_id=conditions.message_id,
        organization_id=conditions.organization_id,
        created_since=conditions.created_since,
        created_until=conditions.created_until,
        tag=conditions.tag,
        tag_value=conditions.tag_value,
        subject_like=conditions.subject_like,
    )


def described_selection(selection: Selection) -> Document:
    """Return the conditions for a document, without those that are not set."""
    named = {
        'status': selection.statuses and list(selection.statuses),
        'since': selection.since,
        'until': selection.until,
        'error_like': selection.error_like,
        'domain': selection.domain,
        'type': selection.email_type,
        'relay': selection.relay,
        'recipient': selection.recipient,
        'message_id': selection.message_id,
        'organization_id': selection.organization_id,
        'created_since': selection.created_since,
        'created_until': selection.created_until,
        'tag': selection.tag,
        'tag_value': selection.tag_value,
        'subject_like': selection.subject_like,
    }
    return {name: value for name, value in named.items() if value is not None}
