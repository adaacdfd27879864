"""One client's connection: aiosmtpd's, but for what follows DATA, addresses and limits.

aiosmtpd reads a message line by line into as many objects, which takes a hostile client's 25 MiB of
empty lines to a gigabyte and holds the loop; its readers of addresses take 0.1 ms for each.
"""

# ruff: noqa: N802, D102 - aiosmtpd finds these methods by the SMTP commands in their names

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    AuthResult,
    Envelope,
    LoginPassword,
    Session,
    TLSSetupException,
)

from db.api_tokens import ApiToken
from ingress.commands import HOOKS, LOG_IN_FIRST, NULL_SENDER
from ingress.door import Door, SubmittedMessage
from ingress.half_closed import HalfClosedSMTP
from ingress.hello import hello
from ingress.incoming import IncomingMessage, too_large
from mail.bounce.return_path import ReturnPaths
from reporting.problems import ProblemError

log = structlog.get_logger()

READ_BYTES = 256 * 1024
MAX_COMMAND_BYTES = 2048  # RFC 5321, 4.5.3.1.4: 512, and what extensions add
# Replies since a message was last taken: beyond a thousand recipients it is no mail client.
MOST_REPLIES = 2000
YIELD_EVERY = 16  # replies to what was pipelined; others are answered meanwhile
MOST_FAILED_LOGINS = 3
LINGER_S = 2.0  # after a goodbye, for a client that does not read it
# RFC 5321, 4.1.2: a path in angle brackets, and parameters. What is inside is checked later.
PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>(?: +(.*))?', re.DOTALL)
UNPRINTABLE = re.compile(r'[^ -~]+')
MAX_REPLY_CHARS = 500  # RFC 5321, 4.5.3.1.5: 512 with the CRLF

GOODBYE = '421 4.3.2 this server is being stopped: try again later'
TOO_SLOW = '421 4.4.2 nothing was heard in time: closing the connection'
TOO_MUCH_TALK = '421 4.7.0 too many commands, and no message: closing the connection'
TOO_LONG_ANSWER = '421 4.7.0 that is no answer to a login: closing the connection'
TOO_MANY_LOGINS = '421 4.7.0 too many failed logins: closing the connection'
LOGIN_LATER = '454 4.7.0 the token cannot be checked now: try again later'
UNKNOWN_LOGIN = '535 5.7.8 the password is no token in use, or has not the scope send'


class IngressSession(HalfClosedSMTP):
    """One connection."""

    protocol = 'ESMTP'
    takes_reports_only = False  # from this machine, without a login
    line_length_limit = 64 * 1024  # what is read ahead
    command_size_limit = MAX_COMMAND_BYTES

    def __init__(self, door: Door, ended: Callable[['IngressSession'], None]) -> None:
        rules, self._door = door.rules, door
        is_local = rules.is_local or self.takes_reports_only
        self._ended = ended
        self._replies = 0
        self._failed_logins = 0
        self._is_over = self._is_leaving = False
        self.is_receiving = False  # between DATA and its last reply
        # aiosmtpd keeps one for all connections, to which each unknown command adds.
        self.command_size_limits = defaultdict(lambda: MAX_COMMAND_BYTES)
        super().__init__(
            HOOKS,
            hostname=rules.host_name,
            ident=self.protocol,
            data_size_limit=rules.max_message_bytes,
            enable_SMTPUTF8=True,
            tls_context=None if rules.certificate is None else rules.certificate.context,
            require_starttls=not is_local,
            timeout=rules.timeout_s,
            auth_require_tls=not is_local,
            authenticator=_as_given,
            loop=asyncio.get_running_loop(),
        )

    def __dir__(self) -> list[str]:
        return COMMAND_NAMES

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        if not self._is_over:
            self._is_over = True
            super().connection_lost(error)
            self._ended(self)

    def turn_away(self, reply: str) -> None:
        """Say goodbye and hang up, in the middle of whatever is going on."""
        # uvloop's transports are no asyncio.WriteTransport, so a check of the type would miss them.
        transport: Any = self.transport
        if self._is_shaking_hands:
            self._cut_off()
        elif transport is not None and not self._is_leaving:
            self._is_leaving = True
            self._door.tally.note_refused(reply)
            if not transport.is_closing():  # asyncio's own refuses a write then, uvloop's does not
                transport.write(f'{reply}\r\n'.encode())
            transport.close()
            self.loop.call_later(LINGER_S, self._cut_off)
            if self._handler_coroutine is not None:
                self._handler_coroutine.cancel()

    @property
    def _is_shaking_hands(self) -> bool:
        """Whether STARTTLS was begun and has not succeeded: nothing can be said."""
        return self._tls_protocol is not None and cast(Session, self.session).ssl is None

    def _cut_off(self) -> None:
        raw: Any = self._original_transport or self.transport
        if raw is not None:
            raw.abort()
        if self._is_shaking_hands:
            # asyncio's SSL tells of the end only those whom it told of the beginning.
            self.connection_lost(None)

    def _timeout_cb(self) -> None:
        self.turn_away(TOO_SLOW)

    async def push(self, status: str | bytes) -> None:
        """Reply in one line, which nothing that a client gave can end."""
        text = status if isinstance(status, str) else status.decode(errors='replace')
        if text[:1] in {'4', '5'}:
            self._door.tally.note_refused(text)
        await self._count_reply()
        await super().push(UNPRINTABLE.sub(' ', text)[:MAX_REPLY_CHARS])

    async def _count_reply(self) -> None:
        self._replies += 1
        if self._replies > MOST_REPLIES:
            self.turn_away(TOO_MUCH_TALK)
        elif self._replies % YIELD_EVERY == 0:
            await asyncio.sleep(0)

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return the address of MAIL or RCPT, not yet checked, and the parameters."""
        path = PATH.fullmatch(arg.strip())
        if path is None:
            return None, None
        return path[1].strip() or NULL_SENDER, path[2] or ''

    async def check_auth_needed(self, caller_method: str) -> bool:
        # Whether mail is a report, its recipients tell.
        may_be_report = self.return_paths is not None and caller_method in ('MAIL', 'RCPT')
        is_needed = self.lacks_token and not may_be_report and not self.is_report
        if is_needed:
            await self.push(LOG_IN_FIRST)
        return is_needed

    @property
    def return_paths(self) -> ReturnPaths | None:
        """Where reports come to; None: they do not come here."""
        return self._door.rules.return_paths

    @property
    def lacks_token(self) -> bool:
        """Whether the client has to log in before it may submit mail."""
        return self._door.rules.needs_token and not cast(Session, self.session).authenticated

    @property
    def is_report(self) -> bool:
        """Whether the recipients so far are return paths of ours: all are, or none."""
        paths, recipients = self.return_paths, self._envelope.rcpt_tos
        return paths is not None and bool(recipients) and paths.is_ours(recipients[0])

    async def smtp_EHLO(self, hostname: str) -> None:
        if not hostname:
            await self.push('501 5.5.4 EHLO needs a name')
            return
        self._set_rset_state()  # type: ignore[no-untyped-call] # aiosmtpd's
        session = cast(Session, self.session)
        session.extended_smtp, session.host_name = True, hostname
        await self._count_reply()
        is_encrypted, is_lmtp = self._tls_protocol is not None, self.takes_reports_only
        self._writer.write(hello(self._door.rules, is_encrypted=is_encrypted, is_lmtp=is_lmtp))
        await self._writer.drain()

    async def smtp_STARTTLS(self, arg: str) -> None:
        if self._tls_protocol is not None:
            await self.push('503 5.5.1 TLS is on already')
            return
        try:
            await super().smtp_STARTTLS(arg)
        except TLSSetupException:  # the client's fault, as that of a port scanner
            self._cut_off()

    async def smtp_AUTH(self, arg: str) -> None:
        mechanism, space, rest = (arg or '').partition(' ')
        await super().smtp_AUTH(mechanism.upper() + space + rest)

    async def challenge_auth(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().challenge_auth(*arguments, **options)
        except ValueError:  # more than is read ahead
            self.turn_away(TOO_LONG_ANSWER)
            return MISSING

    async def auth_PLAIN(self, _: Any, args: list[str]) -> AuthResult:
        return await self._with_token(await super().auth_PLAIN(_, args))

    async def auth_LOGIN(self, _: Any, args: list[str]) -> AuthResult:
        return await self._with_token(await super().auth_LOGIN(_, args))

    async def _with_token(self, given: AuthResult) -> AuthResult:
        """Return the result with the token that was given as the password."""
        if not given.success:
            return given
        try:
            login = cast(LoginPassword, given.auth_data)
            token = await self._door.find_token(login.password)
        except ProblemError:
            return AuthResult(success=False, handled=False, message=LOGIN_LATER)
        if token is not None:
            return AuthResult(success=True, auth_data=token)
        self._failed_logins += 1
        peer: Any = cast(Session, self.session).peer
        log.info('ingress.login_refused', address=peer[0] if peer else '')
        if self._failed_logins >= MOST_FAILED_LOGINS:
            self.turn_away(TOO_MANY_LOGINS)
        return AuthResult(success=False, handled=False, message=UNKNOWN_LOGIN)

    async def smtp_DATA(self, arg: str) -> None:
        if await self.check_helo_needed() or await self.check_auth_needed('DATA'):
            return
        if not self._envelope.rcpt_tos:
            await self.push('503 5.5.1 there is no recipient yet')
        elif arg:
            await self.push('501 5.5.4 DATA has no parameter')
        else:
            self.is_receiving = True
            try:
                await self.push('354 end the message with <CR><LF>.<CR><LF>')
                replies = await self._receive()
                self.envelope = Envelope()
                for reply in replies:
                    await self.push(reply)
            finally:
                self.is_receiving = False
            if self._door.is_closing:
                self.turn_away(GOODBYE)

    @property
    def _envelope(self) -> Envelope:
        return cast(Envelope, self.envelope)

    async def _receive(self) -> Sequence[str]:
        """Read a message to its end, and store it. Returns the replies."""
        max_bytes = self._door.rules.max_message_bytes
        message = IncomingMessage(max_bytes)
        try:
            while not message.feed(await self.read_some(READ_BYTES)):
                self._door.held.note(message)
                if message.is_endless:
                    self.turn_away(too_large(max_bytes))
                await asyncio.sleep(0)  # others' turn; and our end, if the client has gone
            self._reader.feed_data(message.rest)
            if message.refusal is not None:
                return self._for_each(message.refusal)
            ended_at, content = self.loop.time(), message.content()
            replies = await self._hand_in(content)
            if any(reply.startswith('250') for reply in replies):
                self._replies = 0
                self._door.tally.note_accepted(len(content), self.loop.time() - ended_at)
            return replies
        finally:
            self._door.held.note_gone(message)

    def _for_each(self, reply: str) -> Sequence[str]:
        return [reply]

    async def _hand_in(self, content: bytes) -> Sequence[str]:
        recipients = self._envelope.rcpt_tos
        if self.is_report:
            return [await self._door.take_report(recipients, content)]
        token: ApiToken | None = cast(Session, self.session).auth_data
        sender = str(self._envelope.mail_from)
        message = SubmittedMessage(sender, recipients, content, token)
        return [await self._door.submit(message)]


COMMAND_NAMES = [name for name in dir(IngressSession) if name.startswith(('smtp_', 'auth_'))]


def _as_given(
    _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: LoginPassword
) -> AuthResult:
    """Return what was given: whether it is a token takes PostgreSQL to tell."""
    return AuthResult(success=True, auth_data=login)
