"""Where a relay is and how to talk to it, once the settings were read."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from mail.relay.auth import Login
from mail.relay.token import TokenSource


class Tls(StrEnum):
    """How a connection to a relay is protected."""

    NONE = 'none'
    STARTTLS = 'starttls'  # required: without it the connection fails
    IMPLICIT = 'implicit'


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a relay, and how long it may rest, in seconds."""

    connect_s: float = 10.0  # TCP, greeting, EHLO, TLS, AUTH each
    command_s: float = 60.0
    body_s: float = 180.0
    reply_s: float = 600.0  # to the final dot
    idle_s: float = 30.0


class ResumingContext(ssl.SSLContext):
    """A client's TLS context that resumes the server's last session (RFC 8446, 2.2).

    Resuming saves both sides the key exchange. asyncio has no way to pass a session on; it makes
    every connection's object by wrap_bio. One context serves one relay.
    """

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Make a connection's TLS object."""
        if not kwargs.get('server_side') and self.session is not None:
            kwargs.setdefault('session', self.session)
        return super().wrap_bio(*args, **kwargs)


def make_context(ca_file: Path | None) -> ResumingContext:
    """Return what ssl.create_default_context would: certificates and host names are checked.

    Args:
        ca_file: PEM file of the authorities to trust instead of the system's.
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Where a relay is and how to talk to it.

    Attributes:
        auth_mechanisms: To use these only, in this order; see mail.relay.auth.Login.
        token: For XOAUTH2.
        local_hostname: Our name in EHLO; None for the connection's local address.
    """

    name: str
    host: str
    port: int
    tls: Tls
    tls_context: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_mechanisms: tuple[str, ...] = ()
    token: TokenSource | None = None
    local_hostname: str | None = None
    max_connections: int = 20
    timeouts: Timeouts = Timeouts()

    def login(self) -> Login | None:
        """Return how to log in; it learns from each connection. None without a user name."""
        if self.username is None:
            return None
        return Login(self.username, self.password, self.token, self.auth_mechanisms)
