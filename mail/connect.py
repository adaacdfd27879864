"""Opening a connection to a relay: by aiosmtplib, up to the point where e-mails can be sent."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import aiosmtplib

from mail.outcome import Reply
from mail.session import Session, Timeouts
from mail.tls import keep_session
from mail.transaction import RelayError, RelayRefusedError, Transaction


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
    local_hostname: str | None = None
    max_connections: int = 20
    idle_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 60.0
    body_timeout_s: float = 180.0
    reply_timeout_s: float = 600.0


async def dial(
    options: RelayOptions,
    on_free: Callable[[Session], None],
    next_waiting: Callable[[Session], Transaction | None],
) -> Session:
    """Connect, say EHLO, start TLS, log in.

    Args:
        on_free, next_waiting: See mail.session.Session.
    Raises:
        RelayError: no connection; RelayRefusedError when the relay sends us away or does not let us in.
    """
    client = aiosmtplib.SMTP(
        hostname=options.host,
        port=options.port,
        use_tls=options.tls is Tls.IMPLICIT,
        start_tls=options.tls is Tls.STARTTLS,
        tls_context=options.tls_context,
        local_hostname=options.local_hostname,
        timeout=options.connect_timeout_s,
    )
    taken_over = False
    try:
        await client.connect()
        await client.ehlo()
        await log_in(client, options)
        if client.transport is None:
            raise RelayError(f'{options.name} closed the connection')
        keep_session(options.tls_context, client.transport)
        timeouts = Timeouts(options.command_timeout_s, options.body_timeout_s, options.reply_timeout_s)
        transport, extensions = cast('asyncio.Transport', client.transport), client.esmtp_extensions
        session = Session(transport, extensions, size_limit_bytes(extensions), timeouts, on_free, next_waiting)
        taken_over = True
    except aiosmtplib.SMTPResponseException as error:
        reply = Reply(error.code, error.message)
        if reply.code == 421:
            raise RelayRefusedError(f'{options.name} sends us away: {reply}', reply) from error
        raise RelayError(f'{options.name} refused the connection: {reply}', reply) from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise RelayError(f'{options.name} ({options.host}:{options.port}): {error}') from error
    finally:
        if not taken_over:
            client.close()
    return session


def size_limit_bytes(extensions: Mapping[str, str]) -> int:
    """Return the relay's SIZE (RFC 1870), 0 for none, from EHLO's keywords and their parameters."""
    size = extensions.get('size', '')
    return int(size) if size.isdecimal() and len(size) < 20 else 0  # '²' is a digit as well


async def log_in(client: aiosmtplib.SMTP, options: RelayOptions) -> None:
    """Log in by the first method both sides know; aiosmtplib's own login tries all, and loses a 421 on the way."""
    username, password = options.username, options.password or ''
    if username is None:
        return
    methods = {'cram-md5': client.auth_crammd5, 'plain': client.auth_plain, 'login': client.auth_login}
    offered = [methods[name] for name in client.supported_auth_methods if name in methods]
    if not offered:
        raise RelayRefusedError(f'{options.name} offers no AUTH that we know; SMTP_USER needs one')
    try:
        await offered[0](username, password)
    except aiosmtplib.SMTPAuthenticationError as error:
        reply = Reply(error.code, error.message)
        raise RelayRefusedError(f'{options.name} does not accept our user name and password: {reply}', reply) from error
