"""The relays: SMTP_HOST and the like for one, SMTP_BACKUP_ for a second, SMTP_RELAYS for more."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from configuration.relay_list import (
    CaFile,
    EhloName,
    Mechanisms,
    RelayEntry,
    RelayLogin,
    TokenCommand,
    read_relay_list,
    same_names,
)
from configuration.sources import SeveralLines
from configuration.variables import Variables
from mail_outbox.envelope import InvalidEmailError, ascii_address

# By their names, the beginning of their variables.
FIRST, SECOND = 'primary', 'backup'
FIRST_RELAYS = {FIRST: 'smtp_', SECOND: 'smtp_backup_'}
LOGIN_PARTS = (
    'user', 'password', 'auth_mechanisms', 'oauth_token_file', 'oauth_token_command',
)  # fmt: skip
RELAY_PARTS = ('host', 'port', 'use_tls', *LOGIN_PARTS)


class FirstRelayVariables(Variables):
    """The relay that most installations have."""

    smtp_host: str = Field(default='localhost', min_length=1, description='The relay.')
    smtp_port: int = Field(
        default=587, ge=1, le=65535, description='465 means TLS from the first byte.'
    )
    smtp_user: str | None = Field(default=None, description='Without it there is no AUTH.')
    smtp_password: SecretStr | None = Field(default=None, description='Password.')
    smtp_use_tls: bool = Field(
        default=True, description='Require TLS: STARTTLS, or from the first byte on port 465.'
    )
    smtp_auth_mechanisms: Mechanisms = Field(
        default=(),
        description='AUTH by these only, in this order: xoauth2, cram-md5, plain, login, comma '
        'separated. By default all that both sides know, in that order.',
    )
    smtp_oauth_token_file: Path | None = Field(
        default=None,
        description='File with the access token for XOAUTH2, which somebody else renews.',
    )
    smtp_oauth_token_command: TokenCommand | None = Field(
        default=None,
        description='Command that prints the access token, or JSON with access_token and '
        'expires_in; run without a shell whenever the last one is over.',
    )


class SecondRelayVariables(Variables):
    """The relay to fall back on."""

    smtp_backup_host: str | None = Field(
        default=None, description='The relay to fall back on; none by default.'
    )
    smtp_backup_port: int = Field(default=587, ge=1, le=65535, description='As SMTP_PORT.')
    smtp_backup_user: str | None = Field(default=None, description='As SMTP_USER.')
    smtp_backup_password: SecretStr | None = Field(default=None, description='As SMTP_PASSWORD.')
    smtp_backup_use_tls: bool = Field(default=True, description='As SMTP_USE_TLS.')
    smtp_backup_auth_mechanisms: Mechanisms = Field(
        default=(), description='As SMTP_AUTH_MECHANISMS.'
    )
    smtp_backup_oauth_token_file: Path | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_FILE.'
    )
    smtp_backup_oauth_token_command: TokenCommand | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_COMMAND.'
    )


class SmtpVariables(SecondRelayVariables, FirstRelayVariables):
    """All relays, and what holds for each of them."""

    smtp_relays: Annotated[
        tuple[RelayEntry, ...], NoDecode, SeveralLines(), BeforeValidator(read_relay_list)
    ] = Field(
        default=(),
        description='More relays, behind the two above or without them: a JSON list, see below.',
    )
    smtp_oauth_timeout_s: float = Field(
        default=30, gt=0, le=300, description='One run of that command.'
    )
    smtp_ehlo_name: EhloName | None = Field(
        default=None,
        description="Our name in EHLO: a domain or an address literal. By default the host's full "
        'name, or without one the address it connects from.',
    )
    smtp_ca_file: CaFile | None = Field(
        default=None, description='PEM file of a private certificate authority.'
    )
    smtp_from_email: str = Field(
        default='noreply@localhost', description='From address and envelope sender.'
    )
    smtp_from_name: str | None = Field(default=None, description='Name in the From header.')
    smtp_max_connections: int = Field(
        default=20,
        ge=1,
        le=500,
        description='Open at once per relay and worker; fewer where the relay takes fewer.',
    )
    smtp_idle_timeout_s: float = Field(
        default=30, gt=0, description='An unused connection is closed after this.'
    )
    smtp_connect_timeout_s: float = Field(
        default=10, gt=0, le=300, description='TCP, greeting, EHLO, TLS, AUTH each.'
    )
    smtp_command_timeout_s: float = Field(
        default=60, gt=0, le=600, description='MAIL, RCPT, DATA, RSET each.'
    )
    smtp_body_timeout_s: float = Field(
        default=180, gt=0, le=1800, description='Sending the body, without the dot.'
    )
    smtp_reply_timeout_s: float = Field(
        default=600,
        gt=0,
        le=3600,
        description='From the final dot to its reply (RFC 5321, 4.5.3.2.6: 10 minutes).',
    )

    @field_validator('smtp_from_email')
    @classmethod
    def _check_from(cls, value: str) -> str:
        try:
            return ascii_address(value)
        except InvalidEmailError as error:
            raise ValueError('must be one plain address such as noreply@example.com') from error

    @field_validator('smtp_from_name')
    @classmethod
    def _check_from_name(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError('must not contain line ends or other control characters')
        return value

    @model_validator(mode='after')
    def _check_relays(self) -> Self:
        for prefix in FIRST_RELAYS.values():
            login = {part: getattr(self, prefix + part) for part in LOGIN_PARTS}
            if fault := RelayLogin.model_construct(None, **login).fault(prefix.upper()):
                raise ValueError(fault)
        if names := same_names(self.relays):
            raise ValueError(f'SMTP_RELAYS: more than one relay is named {", ".join(names)}')
        return self

    @property
    def relays(self) -> tuple[RelayEntry, ...]:
        """All relays in the order of preference, each with the name that people know it by.

        SMTP_HOST has a default, which is a relay only where no other is named.
        """
        first = []
        if 'smtp_host' in self.model_fields_set or not self.smtp_relays:
            first.append(FIRST)
        if self.smtp_backup_host:
            first.append(SECOND)
        return (*map(self._by_variables, first), *self.smtp_relays)

    def _by_variables(self, name: str) -> RelayEntry:
        parts = {part: getattr(self, FIRST_RELAYS[name] + part) for part in RELAY_PARTS}
        return RelayEntry.model_construct(None, name=name, **parts)
