"""The relays: SMTP_HOST and the like for one, SMTP_BACKUP_ for a second, RELAYS for more."""

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

from configuration.domain_list import DomainEntry, check_domain_limits, read_domain_list
from configuration.relay_list import (
    CaFile,
    EhloName,
    Mechanisms,
    RelayEntry,
    RelayHost,
    RelayLogin,
    SourceAddress,
    TokenCommand,
    check_client_certificate,
    read_relay_list,
    same_names,
)
from configuration.route_list import RouteEntry, check_routes, read_route_list
from configuration.sources import SeveralLines
from configuration.variables import Variables
from mail.relay.learned_limits import MAX_MESSAGES_PER_CONNECTION
from mail.relay.options import Tls
from mail_outbox.envelope import InvalidEmailError, ascii_address

# By their names, the beginning of their variables.
FIRST, SECOND = 'primary', 'backup'
FIRST_RELAYS = {FIRST: 'smtp_', SECOND: 'smtp_backup_'}
LOGIN_PARTS = (
    'user', 'password', 'auth_mechanisms', 'oauth_token_file', 'oauth_token_command',
)  # fmt: skip
RELAY_PARTS = ('host', 'port', 'tls', 'use_tls', *LOGIN_PARTS)


class FirstRelayVariables(Variables):
    """The relay that most installations have."""

    smtp_host: RelayHost = Field(default='localhost', description='The relay.')
    smtp_port: int = Field(
        default=587, ge=1, le=65535, description='465 means TLS from the first byte.'
    )
    smtp_user: str | None = Field(default=None, description='Without it there is no AUTH.')
    smtp_password: SecretStr | None = Field(default=None, description='Password.')
    smtp_use_tls: bool = Field(
        default=True, description='Require TLS: STARTTLS, or from the first byte on port 465.'
    )
    smtp_tls: Tls | None = Field(
        default=None,
        description='Instead of SMTP_USE_TLS: none; opportunistic (STARTTLS where it is offered, '
        'with any certificate); starttls (required); implicit (from the first byte).',
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

    smtp_backup_host: RelayHost | None = Field(
        default=None, description='The relay to fall back on; none by default.'
    )
    smtp_backup_port: int = Field(default=587, ge=1, le=65535, description='As SMTP_PORT.')
    smtp_backup_user: str | None = Field(default=None, description='As SMTP_USER.')
    smtp_backup_password: SecretStr | None = Field(default=None, description='As SMTP_PASSWORD.')
    smtp_backup_use_tls: bool = Field(default=True, description='As SMTP_USE_TLS.')
    smtp_backup_tls: Tls | None = Field(default=None, description='As SMTP_TLS.')
    smtp_backup_auth_mechanisms: Mechanisms = Field(
        default=(), description='As SMTP_AUTH_MECHANISMS.'
    )
    smtp_backup_oauth_token_file: Path | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_FILE.'
    )
    smtp_backup_oauth_token_command: TokenCommand | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_COMMAND.'
    )


RelayList = Annotated[
    tuple[RelayEntry, ...], NoDecode, SeveralLines(), BeforeValidator(read_relay_list)
]


class RelayLimitVariables(Variables):
    """How much each relay gets, and how long it is waited for."""

    smtp_max_connections: int = Field(
        default=20,
        ge=1,
        le=500,
        description='Open at once per relay and worker; fewer where the relay takes fewer.',
    )
    smtp_max_messages_per_connection: int = Field(
        default=MAX_MESSAGES_PER_CONNECTION,
        ge=1,
        le=100_000,
        description='Then a connection is closed; earlier where the relay does so.',
    )
    smtp_max_per_s: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description='E-mails a second to one relay, of all workers together; no limit by default.',
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


class SmtpVariables(RelayLimitVariables, SecondRelayVariables, FirstRelayVariables):
    """All relays, and what holds for each of them."""

    relays: RelayList = Field(
        default=(),
        description='More relays, behind the two above or without them: a JSON list, or the name '
        'of a file with it, see below.',
    )
    smtp_relays: RelayList = Field(default=(), description='The older name of RELAYS; not both.')
    routes: Annotated[
        tuple[RouteEntry, ...], NoDecode, SeveralLines(), BeforeValidator(read_route_list)
    ] = Field(
        default=(),
        description='Which mail goes by which relays: a JSON list, or the name of a file with it, '
        'see mail.md. Without it all relays may be used, the one in front first.',
    )
    domain_limits: Annotated[
        tuple[DomainEntry, ...], NoDecode, SeveralLines(), BeforeValidator(read_domain_list)
    ] = Field(
        default=(),
        description='What recipient domains get at most: a JSON list, or the name of a file with '
        'it, see mail.md.',
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
    smtp_client_certificate_file: Path | None = Field(
        default=None,
        description='PEM file of our own certificate, for relays that ask for one.',
    )
    smtp_client_key_file: Path | None = Field(
        default=None,
        description="PEM file of its key, without a password; by default in the certificate's.",
    )
    smtp_source_address: SourceAddress | None = Field(
        default=None,
        description="This machine's IP address to connect from; by default the system's choice.",
    )
    smtp_from_email: str = Field(
        default='noreply@localhost', description='From address and envelope sender.'
    )
    smtp_from_name: str | None = Field(default=None, description='Name in the From header.')

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
            names = [prefix + part for part in ('tls', 'use_tls')]
            if self.model_fields_set.issuperset(names):
                raise ValueError(f'{" and ".join(map(str.upper, names))} exclude each other')
        check_client_certificate(
            self.smtp_client_certificate_file, self.smtp_client_key_file, 'smtp_'
        )
        if self.relays and self.smtp_relays:
            raise ValueError('RELAYS and SMTP_RELAYS exclude each other')
        if names := same_names(self.all_relays):
            raise ValueError(f'RELAYS: more than one relay is named {", ".join(names)}')
        check_domain_limits(self.domain_limits)
        check_routes(self.routes, [relay.name for relay in self.all_relays])
        return self

    @property
    def all_relays(self) -> tuple[RelayEntry, ...]:
        """All relays in the order of preference, each with the name that people know it by.

        SMTP_HOST has a default, which is a relay only where no other is named.
        """
        first, more = [], self.relays or self.smtp_relays
        if 'smtp_host' in self.model_fields_set or not more:
            first.append(FIRST)
        if self.smtp_backup_host:
            first.append(SECOND)
        return (*map(self._by_variables, first), *more)

    def _by_variables(self, name: str) -> RelayEntry:
        parts = {part: getattr(self, FIRST_RELAYS[name] + part) for part in RELAY_PARTS}
        return RelayEntry.model_construct(None, name=name, **parts)
