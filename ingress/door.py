"""What all connections share: the rules, who may submit, and the way into the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import structlog

from actions.bounce import read_returned, store_only
from actions.known_tokens import KnownTokens
from actions.tokens import ApiScope, token_digest, token_named
from db.api_tokens import ApiToken
from ingress.certificate import Certificate
from ingress.incoming import BytesHeld
from ingress.intake import MailIntake, UnlistedSenderError
from ingress.tally import ReplyTally
from mail.bounce.return_path import ReturnPaths
from mail_outbox.envelope import IdempotencyConflictError, InvalidEmailError
from mail_outbox.quota import QuotaExceededError
from mail_outbox.raw_message import read_raw_head
from mail_outbox.validation import checked_row
from reporting.problems import ProblemError
from reporting.servers import Servers

log = structlog.get_logger()

NOT_NOW = '451 4.3.0 the message could not be stored: try again later'


@dataclass(frozen=True, slots=True)
class IngressRules:
    """What is asked of clients.

    Attributes:
        is_local: Only this machine reaches the listener.
        certificate: For STARTTLS, which is not offered without.
        own_address: The installation's sender, which every message may be from.
        message_id_is_key: A message that comes again is not queued again.
    """

    host_name: str
    is_local: bool
    needs_token: bool
    certificate: Certificate | None
    max_message_bytes: int
    max_bytes_in_flight: int
    max_connections: int
    timeout_s: float
    own_address: str
    expiry_hours: float
    message_id_is_key: bool
    return_paths: ReturnPaths | None = None  # mail for these is about mail of ours


@dataclass(frozen=True, slots=True)
class SubmittedMessage:
    """A message with its envelope, as the client gave them."""

    sender: str  # '<>' for none
    recipients: Sequence[str]
    content: bytes
    token: ApiToken | None = None  # that its client logged in with


class Door:
    """Lets messages in.

    Attributes:
        is_closing: The process is to end: nobody begins with another message.
        tally: What was replied.
    """

    def __init__(self, rules: IngressRules, servers: Servers) -> None:
        self.rules = rules
        self.held = BytesHeld(rules.max_bytes_in_flight)
        self.is_closing = False
        self.tally = ReplyTally()
        self._servers = servers
        self._tokens = KnownTokens(servers)
        self._intake = MailIntake(servers, rules.own_address)

    async def find_token(self, password: bytes) -> ApiToken | None:
        """Return the token that a client gave as its password, if it may submit mail.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        digest = token_digest(password.decode(errors='replace').strip())
        token = await self._tokens.find(digest) if digest else None
        return token if token is not None and ApiScope.SEND in token.scopes else None

    async def submit(self, message: SubmittedMessage) -> str:
        """Put a message into the outbox. Returns the reply, after the commit."""
        try:
            row = await checked_row(self._email(message))
            if message.token is not None:
                row['queued_by'] = token_named(message.token.name)
            email_id = await self._intake.queue(row)
        except ProblemError as error:
            log.warning('ingress.not_stored', error=str(error))
            return NOT_NOW
        except QuotaExceededError as error:
            return self._refused('452 4.7.0', error)
        except UnlistedSenderError as error:
            return self._refused('550 5.7.1', error)
        except (InvalidEmailError, IdempotencyConflictError) as error:
            return self._refused('550 5.6.0', error)
        log.info('ingress.accepted', email_id=email_id, size_bytes=len(message.content))
        return f'250 2.0.0 queued as {email_id}'

    async def take_report(self, recipients: Sequence[str], content: bytes) -> str:
        """Store what a message reports that came back. Returns the reply.

        What is no report is taken as well: its sender has nobody to tell (RFC 5321, 4.5.5).
        """
        try:
            reading = await read_returned(content, recipients, self.rules.return_paths)
            new = await store_only(self._servers, reading.reports)
        except ProblemError as error:
            log.warning('ingress.not_stored', error=str(error))
            return NOT_NOW
        log.info('ingress.report_taken', new=new, why_none=reading.why_none)
        return '250 2.0.0 thank you'

    async def close(self) -> None:
        """Write down who was here last, and drop the connections."""
        await self._tokens.close()
        await self._servers.close()

    def _email(self, message: SubmittedMessage) -> dict[str, object]:
        organization_id = None if message.token is None else message.token.organization_id
        email: dict[str, object] = {
            'recipient': ', '.join(message.recipients),
            'envelope_from': message.sender,
            'raw': message.content,
            'max_bytes': self.rules.max_message_bytes,
            'expiry_hours': self.rules.expiry_hours,
        }
        if organization_id is not None:
            email['organization_id'] = (
                int(organization_id) if organization_id.isdecimal() else organization_id
            )
        if self.rules.message_id_is_key:
            email['idempotency_key'] = _key_of(message)
        return email

    def _refused(self, codes: str, error: Exception) -> str:
        log.info('ingress.refused', reason=str(error))
        return f'{codes} {error}'


def _key_of(message: SubmittedMessage) -> str | None:
    """Return the Message-ID, and the recipients in short.

    A client with more recipients than one transaction takes sends the same message again to the
    others.
    """
    message_id = read_raw_head(message.content).text('message-id')
    if not message_id or len(message_id) > 200 or not message_id.isprintable():
        return None
    recipients = sha256('\n'.join(sorted(message.recipients)).encode()).hexdigest()[:16]
    return f'{message_id} {recipients}'
