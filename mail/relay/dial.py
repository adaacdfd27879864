"""Opening a connection to a relay: by aiosmtplib, up to the point where e-mails can be sent.

Workers and `ops doctor` come in by the same way, `connect`, so that doctor meets what a worker
meets: the same addresses, greeting, TLS context and login.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import aiosmtplib

from mail.outcome import Reply
from mail.relay.addresses import Address, open_socket, reachable_from, resolve
from mail.relay.auth import Login
from mail.relay.errors import RelayError, RelayRefusedError
from mail.relay.greeting import Extensions, address_literal, greet
from mail.relay.options import RelayOptions, ResumingContext, Tls
from mail.relay.session import Session
from mail.relay.transaction import Transaction

TLS_NOT_AVAILABLE = 454
NOT_GREETED = (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPConnectTimeoutError)


class DialStep(StrEnum):
    """How far a connection has come, by the name of what is being done."""

    RESOLVE = 'resolve'
    CONNECT = 'connect'
    GREETING = 'greeting'  # with TLS before it, where that is implicit
    EHLO = 'EHLO'
    STARTTLS = 'STARTTLS'
    AUTH = 'AUTH'


@dataclass(slots=True)
class DialProgress:
    """How far a connection has come, for whoever closes it or explains why it failed.

    Attributes:
        began: The steps, each with the time it began at, of a monotonic clock.
        transport, extensions: The connection, and EHLO's keywords with their parameters, once the
            relay was greeted for the last time.
        addresses, address: Of the relay, and the one that answered.
        greeting, first_extensions: What it said before TLS.
    """

    began: list[tuple[DialStep, float]] = field(default_factory=list)
    client: aiosmtplib.SMTP | None = None
    transport: asyncio.BaseTransport | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    address: str | None = None
    greeting: Reply | None = None
    first_extensions: Mapping[str, str] = field(default_factory=dict)

    def begin(self, step: DialStep) -> None:
        """Note what is being done."""
        self.began.append((step, time.monotonic()))

    @property
    def step(self) -> DialStep:
        """What was begun last."""
        return self.began[-1][0] if self.began else DialStep.RESOLVE


async def dial(
    options: RelayOptions,
    login: Login | None,
    on_free: Callable[[Session], None],
    next_waiting: Callable[[Session], Transaction | None],
) -> Session:
    """Open a connection that carries e-mails.

    Args:
        login: How to log in; None for not at all.
        on_free, next_waiting: See mail.relay.session.Session.
    Raises:
        RelayError: See connect.
    """
    progress, session = DialProgress(), None
    try:
        await connect(options, login, progress)
        transport = cast('asyncio.Transport', progress.transport)
        extensions = Extensions.read(progress.extensions)
        session = Session(transport, extensions, options.timeouts, on_free, next_waiting)
    finally:
        if progress.client is not None and session is None:
            progress.client.close()
    return session


async def connect(
    options: RelayOptions, login: Login | None, progress: DialProgress
) -> aiosmtplib.SMTP:
    """Connect, say EHLO, start TLS, log in.

    Args:
        login: How to log in; None for not at all.
        progress: Where the caller reads how far it came; the caller closes `progress.client`.
    Raises:
        RelayError: no connection; RelayRefusedError when the relay sends us away or does not let us
            in.
    """
    failures_before = login.failures if login is not None else 0
    try:
        client = progress.client = await _open_client(options, progress)
        progress.begin(DialStep.EHLO)
        await _say_hello(client, options)
        progress.transport, progress.extensions = client.transport, client.esmtp_extensions
        progress.first_extensions = dict(client.esmtp_extensions)
        if _starts_tls(client, options):
            progress.begin(DialStep.STARTTLS)
            if await _start_tls(client, options):
                await _say_hello(client, options)  # RFC 3207, 4.2: what was said before is void
        progress.transport, progress.extensions = client.transport, client.esmtp_extensions
        if login is not None:
            progress.begin(DialStep.AUTH)
            await login.log_in(client, options.name, failures_before)
        if client.transport is None:
            raise RelayError(f'{options.name} closed the connection')
    except aiosmtplib.SMTPResponseException as error:
        reply = Reply(error.code, error.message)
        if reply.code == 421:
            raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply) from error
        raise RelayError(f'{options.name} refused the connection: {reply}', reply) from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise RelayError(f'{_place(options)}: {error}') from error
    _keep_tls_session(options.tls_context, client.transport)
    return client


def _starts_tls(client: aiosmtplib.SMTP, options: RelayOptions) -> bool:
    offered = 'starttls' in client.esmtp_extensions
    return options.tls is Tls.STARTTLS or (options.tls is Tls.OPPORTUNISTIC and offered)


async def _start_tls(client: aiosmtplib.SMTP, options: RelayOptions) -> bool:
    """Start TLS; False where it is not to be had just now, and we go on without (RFC 3207, 4)."""
    try:
        await client.starttls()
    except aiosmtplib.SMTPResponseException as error:
        if options.tls is not Tls.OPPORTUNISTIC or error.code != TLS_NOT_AVAILABLE:
            raise
        return False
    return True


async def _open_client(options: RelayOptions, progress: DialProgress) -> aiosmtplib.SMTP:
    """Connect to the first address that answers and greets.

    Raises:
        OSError: none answered.
        RelayError: none greeted; aiosmtplib.SMTPException: one did, but not as it should.
    """
    connect_s, source = options.timeouts.connect_s, options.source_address
    progress.begin(DialStep.RESOLVE)
    addresses = await _addresses(options)
    progress.addresses = [str(address) for address in addresses]
    while True:
        progress.begin(DialStep.CONNECT)
        sock, address = await open_socket(addresses, connect_s, source)
        progress.address = str(address)
        progress.begin(DialStep.GREETING)
        try:
            client = aiosmtplib.SMTP(
                hostname=options.host,  # for the certificate
                sock=sock,
                use_tls=options.tls is Tls.IMPLICIT,
                start_tls=False,
                tls_context=options.tls_context,
                local_hostname=options.local_hostname or address_literal(sock.getsockname()[0]),
                timeout=connect_s,
            )
            greeting = await client.connect()
            progress.greeting = Reply(greeting.code, greeting.message)
        except BaseException as error:
            sock.close()
            if isinstance(error, aiosmtplib.SMTPResponseException) or not isinstance(
                error, NOT_GREETED
            ):
                raise
            # A load balancer takes connections for a dead host: the next address may be alive.
            addresses.remove(address)
            if not addresses:
                raise RelayError(f'{_place(options)}: {_reason(error)}') from error
        else:
            return client


async def _addresses(options: RelayOptions) -> list[Address]:
    connect_s = options.timeouts.connect_s
    try:
        async with asyncio.timeout(connect_s):
            found = await resolve(options.host, options.port)
    except TimeoutError:
        raise TimeoutError(f'nobody told its address within {connect_s:g} s') from None
    source = options.source_address
    return found if source is None else reachable_from(found, source)


def _place(options: RelayOptions) -> str:
    return f'{options.name} ({options.host}:{options.port})'


def _reason(error: BaseException) -> str:
    return str(error).replace(' on port None', '')  # aiosmtplib does not know the port of a socket


async def _say_hello(client: aiosmtplib.SMTP, options: RelayOptions) -> None:
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


def _keep_tls_session(context: ssl.SSLContext | None, transport: asyncio.BaseTransport) -> None:
    """Keep the connection's TLS session for the next one.

    It is read when replies have come: TLS 1.3 sends the ticket behind the handshake.
    """
    if isinstance(context, ResumingContext):
        tls = transport.get_extra_info('ssl_object')
        if tls is not None:
            context.session = tls.session
