"""Logging in to a relay (RFC 4954): the strongest mechanism that works, few wrong tries."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence

import aiosmtplib

from mail.outcome import Reply
from mail.relay.errors import RelayError, RelayRefusedError
from mail.relay.token import TokenError, TokenSource

# The strongest first: a token that ends soon, a proof of the password, the password itself.
MECHANISMS = ('xoauth2', 'cram-md5', 'plain', 'login')
IN_THE_CLEAR = frozenset({'plain', 'login', 'xoauth2'})
# Only these speak of our name and password, or of the way we gave them; the others of the server,
# or of TLS.
TRY_ANOTHER = frozenset({334, 432, 500, 501, 502, 503, 504, 534, 535, 538})
REFUSED = 535  # also by a relay whose mechanism is broken; RFC 4954 has no way to tell
STILL_WAITING = 334  # a challenge that was not expected, or cannot be read


class Login:
    """How to log in to one relay, and what its replies taught.

    One connection finds out, the others wait for it: a wrong password is tried once for each
    mechanism, and then, each time the relay's cool-down is over, by one mechanism in turn. Else the
    account would soon be locked.
    """

    def __init__(
        self,
        username: str,
        password: str | None,
        token: TokenSource | None = None,
        mechanisms: Sequence[str] = (),
    ) -> None:
        """Take what to log in with.

        Args:
            mechanisms: Those to use, in this order; none for all that there is a password or a
                token for.
        """
        self._username, self._password, self._token = username, password or '', token
        known = [
            m
            for m in MECHANISMS
            if (token is not None if m == 'xoauth2' else password is not None or not token)
        ]
        self._order = list(mechanisms or known)
        self._chosen = bool(mechanisms)
        self._works: str | None = None
        self._refused_times = 0  # in a row
        self.failures = 0
        self._failure: RelayError | None = None  # the last
        self._one_at_a_time = asyncio.Lock()

    @property
    def works(self) -> str | None:
        """The mechanism that worked last."""
        return self._works

    async def log_in(
        self, client: aiosmtplib.SMTP, relay: str, failures_before: int | None = None
    ) -> None:
        """Log in on a connection that has been greeted.

        Args:
            relay: Its name, for people.
            failures_before: `failures` when the connection was begun: one that failed since then
                speaks for this one.
        Raises:
            RelayRefusedError: it does not let us in, or offers no mechanism that we may use.
            RelayError: the connection ended or stalled meanwhile, or there is no token.
        """
        offered = self._offered(client, relay)
        if self._works in offered:
            await self._try(client, relay, [self._works])
            return
        if failures_before is None:
            failures_before = self.failures
        async with self._one_at_a_time:
            if self._works in offered:
                offered = [self._works]
            elif self.failures != failures_before and self._failure is not None:
                raise type(self._failure)(str(self._failure), self._failure.reply)
            elif self._refused_times:
                offered = [offered[self._refused_times % len(offered)]]
            await self._try(client, relay, offered)

    def _offered(self, client: aiosmtplib.SMTP, relay: str) -> list[str]:
        theirs = client.server_auth_methods
        offered = [mechanism for mechanism in self._order if mechanism in theirs]
        if not offered:
            theirs_shown = ' '.join(theirs).upper() or 'none'
            raise RelayRefusedError(
                f'{relay} offers no AUTH that we know, or may use (it offers {theirs_shown}; '
                f'we use {" ".join(self._order).upper() or "none"}); SMTP_USER needs one'
            )
        if 'cram-md5' in offered and not self._chosen and not _is_private(client):
            # An attacker in between must not get the password by refusing CRAM-MD5.
            offered = [mechanism for mechanism in offered if mechanism not in IN_THE_CLEAR]
        return offered

    async def _try(self, client: aiosmtplib.SMTP, relay: str, mechanisms: Sequence[str]) -> None:
        said: dict[str, Reply] = {}
        for mechanism in mechanisms:
            try:
                await self._by(mechanism)(client)
            except aiosmtplib.SMTPAuthenticationError as error:
                reply = said[mechanism] = Reply(error.code, error.message)
                if reply.code == STILL_WAITING:
                    await client.execute_command(b'*')  # RFC 4954, 4: take it back
                if reply.code not in TRY_ANOTHER:
                    break
            except ValueError as error:  # this machine has no MD5
                said[mechanism] = Reply(0, str(error))
            except TokenError as error:
                raise self._failed(TokenError(f'{relay}: {error}')) from error
            except aiosmtplib.SMTPException as error:  # the relay may fall over this mechanism
                self._works = None
                self._order.remove(mechanism)
                self._order.append(mechanism)
                raise self._failed(
                    RelayError(f'{relay}: AUTH {mechanism.upper()}: {error}')
                ) from error
            else:
                self._works, self._refused_times = mechanism, 0
                return
        raise self._failed(self._refusal(relay, said))

    def _refusal(self, relay: str, said: dict[str, Reply]) -> RelayRefusedError:
        reply = next((r for r in said.values() if r.code == REFUSED), list(said.values())[-1])
        if reply.code == 421:
            return RelayRefusedError(f'{relay} sends us away: {reply}', reply)
        if reply.code in TRY_ANOTHER:
            self._works = None
            self._refused_times += 1
        tried = '; '.join(f'{mechanism.upper()}: {reply}' for mechanism, reply in said.items())
        return RelayRefusedError(
            f'{relay} does not accept our user name and password: {tried}', reply
        )

    def _failed(self, error: RelayError) -> RelayError:
        """Note a failure, for those who waited for this try."""
        self.failures += 1
        self._failure = error
        return error

    def _by(self, mechanism: str) -> Callable[[aiosmtplib.SMTP], Awaitable[object]]:
        name, password = self._username, self._password
        return {
            'xoauth2': self._by_token,
            'cram-md5': lambda client: client.auth_crammd5(name, password),
            'plain': lambda client: client.auth_plain(name, password),
            'login': lambda client: client.auth_login(name, password),
        }[mechanism]

    async def _by_token(self, client: aiosmtplib.SMTP) -> None:
        if self._token is None:
            raise TokenError('XOAUTH2 needs SMTP_OAUTH_TOKEN_FILE or SMTP_OAUTH_TOKEN_COMMAND')
        token = await self._token.get()
        try:
            await client.auth_xoauth2(self._username, token)
        except aiosmtplib.SMTPAuthenticationError as error:
            if error.code != REFUSED or (fresh := await self._token.get(instead_of=token)) == token:
                raise
            await client.auth_xoauth2(self._username, fresh)


def _is_private(client: aiosmtplib.SMTP) -> bool:
    """Tell whether nobody can listen: it is encrypted, or does not leave this machine."""
    if client.get_transport_info('sslcontext') is not None:
        return True
    peer = client.get_transport_info('peername')
    try:
        return bool(peer) and ipaddress.ip_address(peer[0].partition('%')[0]).is_loopback
    except ValueError:
        return False
