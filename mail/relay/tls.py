"""TLS with a relay: each connection after the first resumes the session, which saves both sides the key exchange."""

import asyncio
import ssl
from pathlib import Path
from typing import Any


class ResumingContext(ssl.SSLContext):
    """A client's context that offers the last session (RFC 8446, 2.2) to the server that gave it.

    asyncio has no way to pass a session on; it makes every connection's object by wrap_bio. One
    context serves one relay.
    """

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Make a connection's TLS object."""
        if not kwargs.get('server_side') and self.session is not None:
            kwargs.setdefault('session', self.session)
        return super().wrap_bio(*args, **kwargs)


def keep_session(context: ssl.SSLContext | None, transport: asyncio.BaseTransport) -> None:
    """Keep the session of a connection for the next one; called when replies have come, the ticket among them."""
    if (
        isinstance(context, ResumingContext)
        and (tls := transport.get_extra_info('ssl_object')) is not None
    ):
        context.session = tls.session


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
