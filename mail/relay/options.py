"""Where a relay is and how to talk to it, once the settings were read."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from mail.relay.auth import Login
from mail.relay.learned_limits import MAX_MESSAGES_PER_CONNECTION
from mail.relay.token import TokenSource


class Tls(StrEnum):
    """How a connection to a relay is protected."""

    NONE = 'none'
    OPPORTUNISTIC = 'opportunistic'  # STARTTLS where it is offered, with any certificate (RFC 7435)
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


def make_context(
    ca_file: Path | None,
    certificate: Path | None = None,
    key: Path | None = None,
    *,
    verify: bool = True,
) -> ResumingContext:
    """Return what ssl.create_default_context would: certificates and host names are checked.

    Args:
        ca_file: PEM file of the authorities to trust instead of the system's.
        certificate, key: PEM files of our own, for a relay that asks who we are.
        verify: Whether to check at all.
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificate is not None:
        load_client_certificate(context, certificate, key)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def load_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load our own certificate.

    Args:
        key: Its key; None when the certificate's file has it as well.
    Raises:
        OSError: a file cannot be read, or is none; ValueError: the key has a password.
    """

    def no_password() -> str:  # else OpenSSL asks at the terminal
        raise ValueError('its key has a password: give it without')

    context.load_cert_chain(certificate, key, no_password)


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """What a relay gets at most, beside connections."""

    max_messages: int = MAX_MESSAGES_PER_CONNECTION  # over one connection
    max_per_s: float = 0.0  # e-mails a second; 0 for no limit


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Where a relay is and how to talk to it.

    Attributes:
        auth_mechanisms: To use these only, in this order; see mail.relay.auth.Login.
        token: For XOAUTH2.
        local_hostname: Our name in EHLO; None for the connection's local address.
        source_address: Of ours, from which to connect; None for the system's choice.
        made_from: The same for options that were made of the same settings and files.
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
    source_address: str | None = None
    max_connections: int = 20
    limits: SendingLimits = SendingLimits()
    timeouts: Timeouts = Timeouts()
    made_from: str = ''

    def login(self) -> Login | None:
        """Return how to log in; it learns from each connection. None without a user name."""
        if self.username is None:
            return None
        return Login(self.username, self.password, self.token, self.auth_mechanisms)
