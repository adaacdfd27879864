"""The relays that the settings speak of, as mail.relay wants them."""

import hashlib
import shlex
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from configuration.relay_list import RelayEntry
from configuration.smtp import SmtpVariables
from mail.relay.greeting import qualified
from mail.relay.options import (
    RelayOptions,
    ResumingContext,
    SendingLimits,
    Timeouts,
    Tls,
    make_context,
)
from mail.relay.token import TokenSource

FILES = ('ca_file', 'client_certificate_file', 'client_key_file')


def relay_options(settings: SmtpVariables) -> list[RelayOptions]:
    """Return the options of each relay, the preferred one first."""
    return [_options(settings, relay) for relay in settings.all_relays]


def slowest_attempt_s(settings: SmtpVariables) -> float:
    """Return the longest an attempt can take that asks each relay, and two relays at least."""
    each = [_longest_s(_timeouts(settings, relay)) for relay in settings.all_relays]
    return sum(each) if len(each) > 1 else 2 * sum(each)


def _longest_s(timeouts: Timeouts) -> float:
    return 5 * timeouts.connect_s + 6 * timeouts.command_s + timeouts.body_s + timeouts.reply_s


def _options(settings: SmtpVariables, relay: RelayEntry) -> RelayOptions:
    name = _said(settings, relay, 'ehlo_name')
    options = RelayOptions(
        name=relay.name,
        host=relay.host,
        port=relay.port,
        tls=relay.tls_policy,
        tls_context=_context(settings, relay),
        username=relay.user,
        password=_reveal(relay.password),
        auth_mechanisms=relay.auth_mechanisms,
        token=_token(settings, relay),
        local_hostname=name or qualified(socket.getfqdn()),
        source_address=_said(settings, relay, 'source_address'),
        max_connections=_said(settings, relay, 'max_connections'),
        limits=SendingLimits(
            _said(settings, relay, 'max_messages_per_connection'),
            _said(settings, relay, 'max_per_s') or 0.0,
        ),
        timeouts=_timeouts(settings, relay),
    )
    return replace(options, made_from=_made_from(settings, relay, options))


def _context(settings: SmtpVariables, relay: RelayEntry) -> ResumingContext | None:
    """Make a relay's TLS context, of its own: a session is resumed with the host that gave it."""
    if relay.tls_policy is Tls.NONE:
        return None
    files = [_said(settings, relay, name) for name in FILES]
    return make_context(*files, verify=relay.tls_policy is not Tls.OPPORTUNISTIC)


def _made_from(settings: SmtpVariables, relay: RelayEntry, options: RelayOptions) -> str:
    """Return the same for the same settings and files: then a reload changes nothing."""
    hashed = hashlib.sha256()
    files = [_said(settings, relay, name) for name in FILES]
    token = (relay.oauth_token_file, _reveal(relay.oauth_token_command))
    plain = replace(options, tls_context=None, token=None, password=None)
    for part in (repr(plain), options.password, repr(token), repr(files)):
        hashed.update(f'{part!r}\0'.encode(errors='surrogatepass'))
    if options.tls_context is not None:
        for path in filter(None, files):
            hashed.update(Path(path).read_bytes() + b'\0')
    return hashed.hexdigest()


def _said(settings: SmtpVariables, relay: RelayEntry, part: str) -> Any:
    """Return what a relay's own entry says, else what is said for all."""
    own = getattr(relay, part)
    return getattr(settings, f'smtp_{part}') if own is None else own


def _timeouts(settings: SmtpVariables, relay: RelayEntry) -> Timeouts:
    parts = ('connect', 'command', 'body', 'reply', 'idle')
    return Timeouts(**{f'{p}_s': _said(settings, relay, f'{p}_timeout_s') for p in parts})


def _token(settings: SmtpVariables, relay: RelayEntry) -> TokenSource | None:
    if relay.oauth_token_file is None and relay.oauth_token_command is None:
        return None
    command = shlex.split(_reveal(relay.oauth_token_command) or '')
    timeout_s = _said(settings, relay, 'oauth_timeout_s')
    return TokenSource(file=relay.oauth_token_file, command=command, timeout_s=timeout_s)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
