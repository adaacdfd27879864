"""The relays that the settings speak of, as mail.relay wants them."""

import shlex
import socket
from typing import Any

from pydantic import SecretStr

from configuration.relay_list import RelayEntry
from configuration.smtp import SmtpVariables
from mail.relay.greeting import qualified
from mail.relay.options import RelayOptions, Timeouts, Tls, make_context
from mail.relay.token import TokenSource

IMPLICIT_TLS_PORT = 465


def relay_options(settings: SmtpVariables) -> list[RelayOptions]:
    """Return the options of each relay, the preferred one first."""
    return [_options(settings, relay) for relay in settings.relays]


def slowest_attempt_s(settings: SmtpVariables) -> float:
    """Return the longest an attempt can take that asks each relay, and two relays at least."""
    each = [_longest_s(_timeouts(settings, relay)) for relay in settings.relays]
    return sum(each) if len(each) > 1 else 2 * sum(each)


def _longest_s(timeouts: Timeouts) -> float:
    return 5 * timeouts.connect_s + 6 * timeouts.command_s + timeouts.body_s + timeouts.reply_s


def _options(settings: SmtpVariables, relay: RelayEntry) -> RelayOptions:
    name = _said(settings, relay, 'ehlo_name')
    return RelayOptions(
        name=relay.name,
        host=relay.host,
        port=relay.port,
        tls=_tls(relay.port, required=relay.use_tls),
        # Of its own: a session is resumed with the host that gave it.
        tls_context=make_context(_said(settings, relay, 'ca_file')) if relay.use_tls else None,
        username=relay.user,
        password=_reveal(relay.password),
        auth_mechanisms=relay.auth_mechanisms,
        token=_token(settings, relay),
        local_hostname=name or qualified(socket.getfqdn()),
        max_connections=_said(settings, relay, 'max_connections'),
        timeouts=_timeouts(settings, relay),
    )


def _said(settings: SmtpVariables, relay: RelayEntry, part: str) -> Any:
    """Return what a relay's own entry says, else what is said for all."""
    own = getattr(relay, part)
    return getattr(settings, f'smtp_{part}') if own is None else own


def _timeouts(settings: SmtpVariables, relay: RelayEntry) -> Timeouts:
    parts = ('connect', 'command', 'body', 'reply', 'idle')
    return Timeouts(**{f'{p}_s': _said(settings, relay, f'{p}_timeout_s') for p in parts})


def _tls(port: int, *, required: bool) -> Tls:
    if not required:
        return Tls.NONE
    return Tls.IMPLICIT if port == IMPLICIT_TLS_PORT else Tls.STARTTLS


def _token(settings: SmtpVariables, relay: RelayEntry) -> TokenSource | None:
    if relay.oauth_token_file is None and relay.oauth_token_command is None:
        return None
    command = shlex.split(_reveal(relay.oauth_token_command) or '')
    timeout_s = _said(settings, relay, 'oauth_timeout_s')
    return TokenSource(file=relay.oauth_token_file, command=command, timeout_s=timeout_s)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
