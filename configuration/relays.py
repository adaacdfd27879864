"""The relays that the settings speak of: where they are and how to talk to them."""

import shlex
import socket
from typing import Any

from pydantic import SecretStr

from mail.relay.greeting import qualified
from mail.relay.options import RelayOptions, Timeouts, Tls, make_context
from mail.relay.token import TokenSource
from settings import Settings

IMPLICIT_TLS_PORT = 465


def relay_options(settings: Settings) -> list[RelayOptions]:
    """Return the options of each relay, the primary first."""
    common: dict[str, Any] = {
        'local_hostname': settings.smtp_ehlo_name or qualified(socket.getfqdn()),
        'max_connections': settings.smtp_max_connections,
        'timeouts': Timeouts(
            connect_s=settings.smtp_connect_timeout_s,
            command_s=settings.smtp_command_timeout_s,
            body_s=settings.smtp_body_timeout_s,
            reply_s=settings.smtp_reply_timeout_s,
            idle_s=settings.smtp_idle_timeout_s,
        ),
    }
    names = (
        {'primary': 'smtp_', 'backup': 'smtp_backup_'}
        if settings.smtp_backup_host
        else {'primary': 'smtp_'}
    )
    return [_options(settings, name, prefix, common) for name, prefix in names.items()]


def _options(settings: Settings, name: str, prefix: str, common: dict[str, Any]) -> RelayOptions:
    def of(part: str) -> Any:
        return getattr(settings, prefix + part)

    return RelayOptions(
        name=name,
        host=of('host'),
        port=of('port'),
        tls=_tls(of('port'), required=of('use_tls')),
        # of its own: a session is resumed with the host that gave it
        tls_context=make_context(settings.smtp_ca_file) if of('use_tls') else None,
        username=of('user'),
        password=_reveal(of('password')),
        auth_mechanisms=of('auth_mechanisms'),
        token=_token(settings, prefix),
        **common,
    )


def _tls(port: int, *, required: bool) -> Tls:
    if not required:
        return Tls.NONE
    return Tls.IMPLICIT if port == IMPLICIT_TLS_PORT else Tls.STARTTLS


def _token(settings: Settings, prefix: str) -> TokenSource | None:
    file = getattr(settings, f'{prefix}oauth_token_file')
    command = _reveal(getattr(settings, f'{prefix}oauth_token_command'))
    if file is None and command is None:
        return None
    return TokenSource(
        file=file, command=shlex.split(command or ''), timeout_s=settings.smtp_oauth_timeout_s
    )


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
