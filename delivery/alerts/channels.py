"""The ways that alerts take: mail past the outbox, a webhook, and the targets of Apprise.

None may hold up who tells: each has its time, and fails by itself.
"""

import json
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from delivery.alerts.verdict import Notice, NoticeKind
from delivery.alerts.wording import document_of, text_of, title_of
from mail.deliver import deliver
from mail.outcome import Outcome
from mail.progress import Progress
from mail.route import Relays
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Content, Email
from mail_outbox.render import render

CHANNEL_TIMEOUT_S = 20.0
MAX_ALERT_BYTES = 256 * 1024
NEEDS_APPRISE = (
    'ALERT_APPRISE_URLS needs the package apprise, which is not installed:'
    ' pip install apprise (the dependency group `alerts`)'
)


class ChannelError(Exception):
    """A way was closed; the message says why."""


class Channel(Protocol):
    """A way to tell somebody."""

    @property
    def name(self) -> str:
        """Its name in the log."""
        ...

    async def tell(self, notices: Sequence[Notice], source: str) -> None:
        """Tell of them.

        Raises:
            Exception: nobody was told.
        """
        ...


@dataclass(frozen=True, slots=True)
class MailChannel:
    """Mail, straight to the first relay that takes it: a relay that is down is left alone by then.

    It is in no outbox: PostgreSQL may be what is down.
    """

    relays: Relays
    sender: Sender
    recipients: str  # an address list
    name: str = 'mail'

    async def tell(self, notices: Sequence[Notice], source: str) -> None:
        """See Channel.tell."""
        domain = self.sender.address.rpartition('@')[2]
        email = Email(
            0,
            self.recipients,
            title_of(notices)[:200],
            text_of(notices, source),
            headers=json.dumps({'Auto-Submitted': 'auto-generated'}),  # RFC 3834, 5
            message_id=f'<alert-{uuid.uuid4()}@{domain}>',
            message_date=datetime.now(UTC),
        )
        rendered = render(email, Content(), self.sender, MAX_ALERT_BYTES)
        delivery = await deliver(self.relays, rendered, {}, Progress(urgent=True))
        if delivery.outcome is not Outcome.ACCEPTED:
            raise ChannelError(f'{delivery.outcome.value}: {delivery.error or delivery.reply}')


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """A POST of JSON to the address that the operator gave: any, also in his own network.

    What is answered beside the status is not read, redirects are not followed. Whoever answers
    slowly is left when the time is over, and leaves nothing behind that waits for him.
    """

    url: str
    name: str = 'webhook'

    async def tell(self, notices: Sequence[Notice], source: str) -> None:
        """See Channel.tell."""
        data = json.dumps(document_of(notices, source)).encode()
        headers = {'Content-Type': 'application/json', 'User-Agent': 'email-worker'}
        async with (
            _connections_to(self.url) as connections,
            connections.stream('POST', self.url, headers=headers, content=data) as response,
        ):
            if not 200 <= response.status < 300:
                raise ChannelError(f'it answered {response.status}')


def _connections_to(url: str) -> Any:
    """Return an HTTP client, through the proxy that the environment names for this address."""
    import httpcore2  # noqa: PLC0415 - few are told by a webhook

    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ''):
        return httpcore2.AsyncConnectionPool()
    by = urlsplit(proxy if '://' in proxy else f'http://{proxy}')
    auth = (unquote(by.username), unquote(by.password or '')) if by.username else None
    return httpcore2.AsyncHTTPProxy(by._replace(netloc=by.netloc.rpartition('@')[2]).geturl(), auth)


@dataclass(frozen=True, slots=True)
class AppriseChannel:
    """Whatever Apprise reaches: chats, pagers, telephones."""

    urls: Sequence[str]
    name: str = 'apprise'

    async def tell(self, notices: Sequence[Notice], source: str) -> None:
        """See Channel.tell."""
        try:
            import apprise  # noqa: PLC0415 - few have it, and it takes its time
        except ImportError as error:
            raise ChannelError(NEEDS_APPRISE) from error
        is_good = all(notice.kind is NoticeKind.UP for notice in notices)
        targets = apprise.Apprise()
        if not all(targets.add(url) for url in self.urls):
            raise ChannelError('ALERT_APPRISE_URLS: one is none that Apprise knows')
        done = await targets.async_notify(
            body=text_of(notices, source),
            title=title_of(notices),
            notify_type=apprise.NotifyType.SUCCESS if is_good else apprise.NotifyType.FAILURE,
        )
        if not done:
            raise ChannelError('not every target took it')
