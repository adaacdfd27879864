"""What handlers work with."""

from dataclasses import dataclass, field

from fastapi import Request

from actions.retry import RetryTerms
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import MAX_MESSAGE_BYTES
from reporting.servers import Servers
from web.api.access import Access
from web.api.resend.sending import Sending


@dataclass(slots=True)
class Api:
    """What handlers get, as request.app.state.api.

    Attributes:
        queueing: PostgreSQL for tokens, and for e-mails from clients.
        servers: PostgreSQL for all else, and arq's client: ask_postgres, ask_redis.
        terms: How e-mails are sent again.
        sender: Of e-mails that name none, for From.
        max_message_bytes: The most that workers send as one message.
    """

    queueing: Servers
    servers: Servers
    terms: RetryTerms
    sender: Sender
    max_message_bytes: int = MAX_MESSAGE_BYTES
    access: Access = field(init=False)
    sending: Sending = field(init=False)

    def __post_init__(self) -> None:
        self.access = Access(self.queueing)
        self.sending = Sending(self.queueing, self.sender.address, self.max_message_bytes)

    async def close(self) -> None:
        """Close what was opened."""
        await self.access.tokens.close()
        await self.queueing.close()
        await self.servers.close()


def api_of(request: Request) -> Api:
    """Return the parts; a dependency of FastAPI."""
    api: Api = request.app.state.api
    return api
