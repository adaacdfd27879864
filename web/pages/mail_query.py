"""Which e-mails a person looks for, as the address of the page says it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from reporting.mail_filter import STATE_WORDS, MailFilter, id_in, meant_by
from web.api.access import Principal
from web.auth.forms import FilledForm

LONGEST = 320
WITHIN = {'1h': 1, '24h': 24, '7d': 7 * 24, '30d': 30 * 24}  # hours since it was queued


@dataclass(frozen=True, slots=True)
class MailQuery:
    """What the search of the mail page says; '' is no condition.

    Attributes:
        q: An address, @domain, <Message-ID>, id, or words of the subject: whatever a person has.
        within: A key of WITHIN.
        since, until: Times when it was queued, as <input type=datetime-local> writes them, in UTC.
    """

    q: str = ''
    status: tuple[str, ...] = ()
    type: str = ''
    relay: str = ''
    error: str = ''
    subject: str = ''
    tag: str = ''
    organization: str = ''
    within: str = ''
    since: str = ''
    until: str = ''

    @classmethod
    def of(cls, given: QueryParams | FilledForm) -> Self:
        """Read a page's address, or a form; what it does not know is left out."""
        values = {
            part.name: _value(given, part.name) for part in fields(cls) if part.name != 'status'
        }
        several = given.getlist('status') if isinstance(given, QueryParams) else given.all('status')
        values['within'] = values['within'] if values['within'] in WITHIN else ''
        return cls(status=tuple(word for word in STATE_WORDS if word in several), **values)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return what is set, for an address or a form's hidden fields."""
        found = [('status', word) for word in self.status]
        names = (part.name for part in fields(self) if part.name != 'status')
        return found + [(name, getattr(self, name)) for name in names if getattr(self, name)]

    def address(self, path: str = '/mail', **more: str | int) -> str:
        """Return the address of a page about the same e-mails."""
        pairs = [*self.pairs, *((name, str(value)) for name, value in more.items())]
        return f'{path}?{urlencode(pairs)}' if pairs else path

    def with_status(self, *words: str) -> str:
        """Return the address of the list of those in other states."""
        pairs = [pair for pair in self.pairs if pair[0] != 'status']
        pairs += [('status', word) for word in words]
        return f'/mail?{urlencode(pairs)}' if pairs else '/mail'

    @property
    def email_id(self) -> int | None:
        """The e-mail's id, when one is asked for."""
        return id_in(self.q)

    @property
    def is_narrow(self) -> bool:
        """Whether anything but the state is asked for."""
        return any(name != 'status' for name, _ in self.pairs)

    def conditions(self, principal: Principal) -> MailFilter:
        """Return the conditions; a token's organisation is one of them."""
        meant = meant_by(self.q)
        tag, _, tag_value = self.tag.partition('=')
        return MailFilter(
            error_like=self.error or None,
            domain=meant.get('domain'),
            email_type=self.type or None,
            relay=self.relay or None,
            recipient=meant.get('recipient'),
            message_id=meant.get('message_id'),
            organization_id=principal.organization_id or self.organization or None,
            created_since=_time(self.since) or self._begins(),
            created_until=_time(self.until),
            tag=tag or None,
            tag_value=tag_value or None,
            subject_like=self.subject or meant.get('subject_like'),
        )

    def _begins(self) -> datetime | None:
        hours = WITHIN.get(self.within)
        return datetime.now(UTC) - timedelta(hours=hours) if hours else None

    def statuses(self) -> Sequence[str] | None:
        """Return the states; None: any."""
        return self.status or None


def _value(given: QueryParams | FilledForm, name: str) -> str:
    found = given.get(name, '') if isinstance(given, QueryParams) else given.one(name)
    return ''.join(filter(str.isprintable, found)).strip()[:LONGEST]


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
