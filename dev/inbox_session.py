"""One SMTP connection to the inbox.

Aiosmtpd's session, with the misbehaviour woven in at every verb.
"""

# ruff: noqa: N802, D102 - aiosmtpd finds these methods by the SMTP commands in their names

import asyncio
import hmac
import ssl
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from dev.inbox_faults import Fault, Rules, TagCounter, Verb
from dev.inbox_store import Delivery, MessageStore

SIZE_LIMIT_BYTES = 35 * 1024 * 1024
IDLE_TIMEOUT_S = 300.0
FOR_EVER_S = 7 * 24 * 3600.0
SERVICE_CLOSING = 421


@dataclass
class Relay:
    """One of the two relays the inbox plays.

    Attributes:
        counts: connections, transactions (MAIL accepted), accepted (messages stored).
        sessions: Those open now.
    """

    name: str
    user: str
    password: str
    port: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    sessions: set['InboxSession'] = field(default_factory=set)


@dataclass(frozen=True)
class Inbox:
    """What all sessions share."""

    store: MessageStore
    rules: Rules
    tags: TagCounter
    tls_context: ssl.SSLContext | None


class InboxSession(SMTP):
    """aiosmtpd's protocol for one connection to one relay."""

    def __init__(self, inbox: Inbox, relay: Relay) -> None:
        """Set up like a submission relay.

        STARTTLS when there is a certificate, then AUTH, then mail.
        """
        self.inbox = inbox
        self.relay = relay
        super().__init__(
            RelayHandler(inbox, relay),
            hostname=f'{relay.name}.inbox.localhost',
            ident='ESMTP inbox',
            data_size_limit=SIZE_LIMIT_BYTES,
            enable_SMTPUTF8=True,
            tls_context=inbox.tls_context,
            timeout=IDLE_TIMEOUT_S,
            auth_required=bool(relay.password),
            auth_require_tls=inbox.tls_context is not None,
            authenticator=self._authenticate_user,
            loop=asyncio.get_running_loop(),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection (this is also called when TLS has been set up on it)."""
        if self not in self.relay.sessions:
            self.relay.sessions.add(self)
            self.relay.counts['connections'] += 1
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the session."""
        self.relay.sessions.discard(self)
        super().connection_lost(error)

    async def carry_out(self, fault: Fault) -> str | None:
        """Misbehave.

        Returns:
            The reply to send, or None when the verb shall go its normal way (after a stall). Does
            not return
            when the connection is to end: it waits to be cancelled by the connection's loss.
        """
        if fault.do == 'refuse':
            reply = f'{fault.code} {fault.text}'
            if fault.code == SERVICE_CLOSING:
                await self.push(reply)
                await self.hang_up(politely=True)
            return reply
        if fault.do == 'stall':
            self._reset_timeout(FOR_EVER_S)  # aiosmtpd's idle timer would end it
            await asyncio.sleep(FOR_EVER_S if fault.seconds is None else fault.seconds)
            self._reset_timeout()
            return None
        await self.hang_up(politely=False)
        return None

    async def hang_up(self, *, politely: bool) -> None:
        """End the connection and wait for that to cancel us.

        No pipelined command is read any more.
        """
        if politely and self.transport is not None:
            self.transport.close()
        else:
            self.cut()
        await asyncio.sleep(FOR_EVER_S)

    def cut(self) -> None:
        """Close the connection at once, without TLS's or SMTP's goodbye."""
        # uvloop's transports are no asyncio.WriteTransport, so a check of the type would miss them.
        transport: Any = self.transport
        if transport is not None:
            transport.abort()

    async def _obeys_rule(self, verb: Verb) -> bool:
        """Apply a rule set by command; True when that was the whole answer."""
        fault = self.inbox.rules.take(self.relay.name, verb)
        reply = await self.carry_out(fault) if fault else None
        if reply is not None:
            await self.push(reply)
        return reply is not None

    async def _handle_client(self) -> None:
        fault = self.inbox.rules.take(self.relay.name, 'connect')
        reply = await self.carry_out(fault) if fault else None
        if reply is not None:
            await self.push(reply)
            await self.hang_up(politely=True)
        await super()._handle_client()

    async def smtp_HELO(self, hostname: str) -> None:
        if not await self._obeys_rule('ehlo'):
            await super().smtp_HELO(hostname)

    async def smtp_EHLO(self, hostname: str) -> None:
        if not await self._obeys_rule('ehlo'):
            await super().smtp_EHLO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:
        if not await self._obeys_rule('starttls'):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:
        if not await self._obeys_rule('auth'):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:
        if not await self._obeys_rule('mail'):
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:
        if not await self._obeys_rule('rcpt'):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str) -> None:
        if await self._obeys_rule('data'):
            return
        recipients = self.envelope.rcpt_tos if self.envelope else []
        reply = await self.apply_tags(recipients, 'data')
        if reply is not None:
            await self.push(reply)
        else:
            await super().smtp_DATA(arg)

    async def smtp_RSET(self, arg: str) -> None:
        if not await self._obeys_rule('rset'):
            await super().smtp_RSET(arg)

    async def smtp_QUIT(self, arg: str) -> None:
        if not await self._obeys_rule('quit'):
            await super().smtp_QUIT(arg)

    async def apply_tags(self, recipients: list[str], verb: Verb) -> str | None:
        """Carry out the first fault the recipients' tags ask for; the reply, or None to go on."""
        for recipient in recipients:
            fault = self.inbox.tags.take(self.relay.name, recipient, verb)
            if fault is not None:
                return await self.carry_out(fault)
        return None

    def _authenticate_user(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, auth_data: Any
    ) -> AuthResult:
        accepted = (
            isinstance(auth_data, LoginPassword)
            and hmac.compare_digest(auth_data.login, self.relay.user.encode())
            and hmac.compare_digest(auth_data.password, self.relay.password.encode())
        )
        # handled=False makes aiosmtpd send the 535; with its default the client would wait for
        # ever.
        return AuthResult(success=accepted, handled=accepted, auth_data=auth_data)


class RelayHandler:
    """aiosmtpd's hooks: what a relay answers when it behaves, with enhanced status codes."""

    def __init__(self, inbox: Inbox, relay: Relay) -> None:
        self._inbox = inbox
        self._relay = relay

    async def handle_EHLO(
        self,
        _server: InboxSession,
        session: Session,
        _envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], '250-PIPELINING', '250-ENHANCEDSTATUSCODES', responses[-1]]

    async def handle_MAIL(
        self,
        _server: InboxSession,
        _session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        self._relay.counts['transactions'] += 1
        return '250 2.1.0 Sender OK'

    async def handle_RCPT(
        self,
        server: InboxSession,
        _session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        reply = await server.apply_tags([address], 'rcpt')
        if reply is not None:
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return '250 2.1.5 Recipient OK'

    async def handle_DATA(self, server: InboxSession, session: Session, envelope: Envelope) -> str:
        fault = self._inbox.rules.take(self._relay.name, 'dot') or self._tag_at_dot(envelope)
        if fault is not None and fault.do == 'store-then-drop':
            self._keep(session, envelope, answered=False)
            await server.hang_up(politely=False)
        reply = await server.carry_out(fault) if fault else None
        return reply or self._keep(session, envelope, answered=True)

    async def handle_RSET(self, *_: object) -> str:
        return '250 2.0.0 OK'

    async def handle_QUIT(self, *_: object) -> str:
        return '221 2.0.0 Bye'

    def _tag_at_dot(self, envelope: Envelope) -> Fault | None:
        taken = (
            self._inbox.tags.take(self._relay.name, recipient, 'dot')
            for recipient in envelope.rcpt_tos
        )
        return next((fault for fault in taken if fault is not None), None)

    def _keep(self, session: Session, envelope: Envelope, *, answered: bool) -> str:
        login = session.auth_data
        delivery = Delivery(
            relay=self._relay.name,
            mail_from='' if envelope.mail_from in (None, '<>') else str(envelope.mail_from),
            rcpt_to=list(envelope.rcpt_tos),
            content=envelope.original_content or b'',
            tls=session.ssl is not None,
            auth=login.login.decode() if isinstance(login, LoginPassword) else None,
            answered=answered,
        )
        try:
            stored = self._inbox.store.add(delivery)
        except OSError as error:
            return f'452 4.3.1 Cannot store the message: {error.strerror}'
        self._relay.counts['accepted'] += 1
        return f'250 2.0.0 OK queued as {stored.n:06d}'
