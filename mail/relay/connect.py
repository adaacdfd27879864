"""Opening a connection to a relay: by aiosmtplib, up to the point where e-mails can be sent."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import aiosmtplib

from mail.outcome import Reply
from mail.relay.addresses import open_socket, resolve
from mail.relay.auth import Login
from mail.relay.greeting import address_literal, greet
from mail.relay.recipients import told_limit
from mail.relay.session import Session, Timeouts
from mail.relay.tls import keep_session
from mail.relay.token import TokenSource
from mail.relay.transaction import RelayError, RelayRefusedError, Transaction


class Tls(StrEnum):
    """How a connection to a relay is protected."""

    NONE = 'none'
    STARTTLS = 'starttls'  # required: without it the connection fails
    IMPLICIT = 'implicit'


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Where a relay is and how to talk to it. Times in seconds."""

    name: str
    host: str
    port: int
    tls: Tls
    tls_context: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_mechanisms: tuple[
        str, ...
    ] = ()  # to use these only, in this order; see mail.relay.auth.Login
    token: TokenSource | None = None  # for XOAUTH2
    local_hostname: str | None = None  # None: the connection's local address
    max_connections: int = 20
    idle_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 60.0
    body_timeout_s: float = 180.0
    reply_timeout_s: float = 600.0

    def login(self) -> Login | None:
        """Return how to log in, which learns from each connection; None when there is no user name."""
        if self.username is None:
            return None
        return Login(self.username, self.password, self.token, self.auth_mechanisms)


async def dial(
    options: RelayOptions,
    login: Login | None,
    on_free: Callable[[Session], None],
    next_waiting: Callable[[Session], Transaction | None],
) -> Session:
    """Connect, say EHLO, start TLS, log in.

    Args:
        login: How to log in; None for not at all.
        on_free, next_waiting: See mail.relay.session.Session.
    Raises:
        RelayError: no connection; RelayRefusedError when the relay sends us away or does not let us
            in.
    """
    client = None
    failures_before = login.failures if login is not None else 0
    taken_over = False
    try:
        client = await open_client(options)
        await _set_up(client, options)
        if login is not None:
            await login.log_in(client, options.name, failures_before)
        if client.transport is None:
            raise RelayError(f'{options.name} closed the connection')
        keep_session(options.tls_context, client.transport)
        timeouts = Timeouts(
            options.command_timeout_s, options.body_timeout_s, options.reply_timeout_s
        )
        transport, extensions = cast('asyncio.Transport', client.transport), client.esmtp_extensions
        session = Session(
            transport, extensions, size_limit_bytes(extensions), timeouts, on_free, next_waiting
        )
        session.most_recipients = told_limit(extensions)
        taken_over = True
    except aiosmtplib.SMTPResponseException as error:
        reply = Reply(error.code, error.message)
        if reply.code == 421:
            raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply) from error
        raise RelayError(f'{options.name} refused the connection: {reply}', reply) from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise RelayError(f'{options.name} ({options.host}:{options.port}): {error}') from error
    finally:
        if client is not None and not taken_over:
            client.close()
    return session


NOT_GREETED = (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPConnectTimeoutError)


async def open_client(options: RelayOptions) -> aiosmtplib.SMTP:
    """Connect to the first address that answers and greets.

    Raises:
        OSError: none answered.
        RelayError: none greeted; aiosmtplib.SMTPException: one did, but not as it should.
    """
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            addresses = await resolve(options.host, options.port)
    except TimeoutError:
        raise TimeoutError(
            f'nobody told its address within {options.connect_timeout_s:g} s'
        ) from None
    while True:
        sock, address = await open_socket(addresses, options.connect_timeout_s)
        try:
            client = aiosmtplib.SMTP(
                hostname=options.host,  # for the certificate
                sock=sock,
                use_tls=options.tls is Tls.IMPLICIT,
                start_tls=False,
                tls_context=options.tls_context,
                local_hostname=options.local_hostname or address_literal(sock.getsockname()[0]),
                timeout=options.connect_timeout_s,
            )
            await client.connect()
        except BaseException as error:
            sock.close()
            if isinstance(error, aiosmtplib.SMTPResponseException) or not isinstance(
                error, NOT_GREETED
            ):
                raise
            addresses.remove(address)  # a dead host behind something that takes connections for it
            if not addresses:
                raise RelayError(
                    f'{options.name} ({options.host}:{options.port}): {_why(error)}'
                ) from error
        else:
            return client


def _why(error: BaseException) -> str:
    return str(error).replace(' on port None', '')  # aiosmtplib does not know the port of a socket


async def _set_up(client: aiosmtplib.SMTP, options: RelayOptions) -> None:
    """Greet the relay, and get TLS where that is asked for."""
    await say_hello(client, options)
    if options.tls is Tls.STARTTLS:
        await client.starttls()
        await say_hello(client, options)


async def say_hello(client: aiosmtplib.SMTP, options: RelayOptions) -> None:
    """Greet the relay, before TLS and again behind it.

    Raises:
        RelayError: it knows only HELO, and we want more; aiosmtplib.SMTPException: see
            mail.relay.greeting.greet.
    """
    needs = None
    if options.username is not None:
        needs = 'AUTH, which SMTP_USER needs'
    if options.tls is Tls.STARTTLS and client.get_transport_info('sslcontext') is None:
        needs = 'STARTTLS, which SMTP_USE_TLS asks for'
    await greet(client, client.local_hostname or '', needs, options.name)


def size_limit_bytes(extensions: Mapping[str, str]) -> int:
    """Return the relay's SIZE (RFC 1870), 0 for none, from EHLO's keywords and their parameters."""
    size = extensions.get('size', '')
    return int(size) if size.isdecimal() and len(size) < 20 else 0  # '²' is a digit as well
