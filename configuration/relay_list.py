"""What RELAYS says: a list of relays, each with what it takes to reach it and to log in."""

import re
import shlex
import shutil
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from configuration.credentials import in_credentials
from configuration.lists import read_entries
from mail.relay.auth import MECHANISMS
from mail.relay.greeting import is_name
from mail.relay.options import Tls, load_client_certificate

UNUSUAL_IN_HOST = re.compile(r'[\s/@\x00-\x20\x7f]')
HOST_WITH_PORT = re.compile(r'[^:]*:\d*|\[.*')


def _read_mechanisms(value: Any) -> Any:
    if isinstance(value, str):
        value = value.split(',')
    named = tuple(dict.fromkeys(str(part).strip().lower() for part in value if str(part).strip()))
    if unknown := [name for name in named if name not in MECHANISMS]:
        raise ValueError(f'{", ".join(unknown)}: we know only {", ".join(MECHANISMS)}')
    return named


def _check_command(value: SecretStr) -> SecretStr:
    try:
        words = shlex.split(value.get_secret_value())
    except ValueError:
        raise ValueError('its quotes are not closed') from None
    if not words or shutil.which(words[0]) is None:
        raise ValueError('its first word is no program that can be run')
    return value


def _check_ehlo_name(value: str) -> str:
    if not is_name(value):
        raise ValueError(
            'must be a domain in ASCII, such as mail.example.com, or an address literal: '
            '[192.0.2.1]'
        )
    return value


def _check_ca_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f'{value} is not a file')
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError as error:
        raise ValueError(f'{value} holds no certificate in PEM form') from error
    return value


def _check_address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError('must be an IP address of this machine') from None


def _check_host(value: str) -> str:
    if UNUSUAL_IN_HOST.search(value) or HOST_WITH_PORT.fullmatch(value):
        raise ValueError('must be a name or an IP address alone: smtp.example.com')
    return value


RelayHost = Annotated[str, Field(min_length=1), AfterValidator(_check_host)]
Mechanisms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_mechanisms)]
TokenCommand = Annotated[SecretStr, AfterValidator(_check_command)]
EhloName = Annotated[str, AfterValidator(_check_ehlo_name)]
CaFile = Annotated[Path, AfterValidator(_check_ca_file)]
SourceAddress = Annotated[str, AfterValidator(_check_address)]


IMPLICIT_TLS_PORT = 465


def check_client_certificate(certificate: Path | None, key: Path | None, prefix: str = '') -> None:
    """Refuse files that are no certificate with its key.

    Args:
        prefix: What the names of the variables begin with.
    Raises:
        ValueError: it names the key.
    """
    name = 'client_certificate_file'
    if certificate is None:
        if key is not None:
            raise ValueError(f'{prefix}client_key_file needs {prefix}{name}')
        return
    try:
        load_client_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ValueError(f'{prefix}{name}: {certificate}: {_why_no_certificate(error)}') from None


def _why_no_certificate(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return 'no certificate in PEM form, with a key that belongs to it'
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class RelayLogin(BaseModel):
    """How to log in to a relay; without a user there is no AUTH."""

    user: str | None = None
    password: SecretStr | None = None
    auth_mechanisms: Mechanisms = ()
    oauth_token_file: Path | None = None
    oauth_token_command: TokenCommand | None = None
    oauth_timeout_s: float | None = Field(default=None, gt=0, le=300)

    def fault(self, prefix: str = '') -> str | None:
        """Return why nobody could log in so; None when somebody could.

        Args:
            prefix: What the names of the variables begin with.
        """
        file, command = self.oauth_token_file is not None, self.oauth_token_command is not None
        has_token = file or command
        has_password, mechanisms = self.password is not None, self.auth_mechanisms
        if file and command:
            return f'{prefix}OAUTH_TOKEN_FILE and {prefix}OAUTH_TOKEN_COMMAND exclude each other'
        if has_token and not self.user:
            return f'{prefix}OAUTH_TOKEN_... needs {prefix}USER'
        if self.user and not has_password and not has_token:
            return f'{prefix}USER needs {prefix}PASSWORD, or an OAUTH_TOKEN_FILE or _COMMAND'
        if 'xoauth2' in mechanisms and not has_token:
            return f'{prefix}AUTH_MECHANISMS: xoauth2 needs {prefix}OAUTH_TOKEN_FILE or _COMMAND'
        if self.user and not has_password and set(mechanisms) - {'xoauth2'}:
            return f'{prefix}AUTH_MECHANISMS: all but xoauth2 need {prefix}PASSWORD'
        return None


class RelayTls(BaseModel):
    """How connections to a relay are protected, and who both sides are."""

    tls: Tls | None = None
    use_tls: bool | None = None
    ca_file: CaFile | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None


class RelayLimits(BaseModel):
    """How much a relay gets, and how long it is waited for."""

    max_connections: int | None = Field(default=None, ge=1, le=500)
    max_messages_per_connection: int | None = Field(default=None, ge=1, le=100_000)
    max_per_s: float | None = Field(default=None, gt=0, le=1_000_000)
    idle_timeout_s: float | None = Field(default=None, gt=0)
    connect_timeout_s: float | None = Field(default=None, gt=0, le=300)
    command_timeout_s: float | None = Field(default=None, gt=0, le=600)
    body_timeout_s: float | None = Field(default=None, gt=0, le=1800)
    reply_timeout_s: float | None = Field(default=None, gt=0, le=3600)


class RelayEntry(RelayLimits, RelayTls, RelayLogin):
    """One relay. Its keys are the SMTP_ variables without SMTP_, in lower case.

    What it does not say of names, times and numbers is as the SMTP_ variable says for all.
    """

    model_config = ConfigDict(
        extra='forbid', frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    name: str = Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$')
    host: RelayHost
    port: int = Field(default=587, ge=1, le=65535)
    ehlo_name: EhloName | None = None
    source_address: SourceAddress | None = None

    @model_validator(mode='before')
    @classmethod
    def _read_password_file(cls, keys: Any) -> Any:
        if not isinstance(keys, dict) or 'password_file' not in keys:
            return keys
        if 'password' in keys:
            raise ValueError('password and password_file exclude each other')
        path = in_credentials(str(keys['password_file']))
        try:
            password = path.read_text(encoding='utf-8').rstrip('\r\n')
        except (OSError, ValueError) as error:
            raise ValueError(f'password_file: cannot read {path}: {error}') from error
        return {k: v for k, v in keys.items() if k != 'password_file'} | {'password': password}

    @model_validator(mode='after')
    def _check(self) -> Self:
        if fault := self.fault():
            raise ValueError(fault.lower())
        if self.tls is not None and self.use_tls is not None:
            raise ValueError('tls and use_tls exclude each other')
        check_client_certificate(self.client_certificate_file, self.client_key_file)
        return self

    @property
    def tls_policy(self) -> Tls:
        """How connections are protected; without a word, TLS is required."""
        if self.tls is not None:
            return self.tls
        if self.use_tls is False:
            return Tls.NONE
        return Tls.IMPLICIT if self.port == IMPLICIT_TLS_PORT else Tls.STARTTLS


def read_relay_list(value: Any) -> Any:
    """Read the list, which the environment gives as JSON, or as the name of a file with it.

    Raises:
        ValueError: it is none, or says which entry is wrong, and what of it; never a value.
    """
    return read_entries(value, RelayEntry, '[{"name": "eu", "host": "smtp.example.com"}]', PASSWORD)


PASSWORD = ('password_file',)  # read into `password` before the keys are checked


def same_names(relays: Iterable[RelayEntry]) -> list[str]:
    """Return the names that more than one relay has."""
    names = [relay.name for relay in relays]
    return sorted({name for name in names if names.count(name) > 1})
