"""Every setting of the program: environment first, then `.env`, secrets also from files.

A secret NAME may instead be given as NAME_FILE (a path), or as a file called NAME in the directory
that systemd's LoadCredential passes in CREDENTIALS_DIRECTORY. Names that existing installations use
are accepted as they are.
"""

import os
import re
import shlex
import shutil
import socket
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from configuration.sources import ENV_FILE, EnvFile, SecretFiles, variable_names
from db.address import check_postgres_url
from engine.redis_url import redis_settings
from engine.urls import PERCENT_ENCODE, place_of, read_url
from mail.outcome import Policy
from mail.relay.auth import MECHANISMS
from mail.relay.greeting import is_name
from mail_outbox.envelope import MAX_MESSAGE_BYTES, InvalidEmailError, ascii_address

IDENTIFIER = re.compile(r'[^\W\d][\w$]*')
# What the duties clean anyway, or must not: by the time in expires_at every e-mail would go.
OWN_TABLES = frozenset({
    'outbound_emails', 'mail_outbox', 'email_attempts', 'email_templates', 'email_suppressions', 'mail_switches',
    'cron_runs', 'service_health', 'mail_service_health', 'outbox_adoption', 'table_origins', '_pogo_migration',
})  # fmt: skip


class Settings(BaseSettings):
    """All settings, checked. Units are in the names; where a variable's own name has none, the field's name has it."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra='ignore',
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    # Redis: the queue has a database of its own; the cache is only watched by check_service_health.
    arq_redis_url: SecretStr = Field(
        default=SecretStr('redis://localhost:6379/1'),
        validation_alias=AliasChoices('ARQ_REDIS_URL', 'CELERY_BROKER_URL'),
        description='The queue: redis://, rediss://, unix:// or redis+sentinel://, database 1; or CELERY_BROKER_URL.',
    )
    celery_broker_url: SecretStr | None = Field(
        default=None,
        description='Where import-celery, db.migrate and doctor look for Celery, if not in ARQ_REDIS_URL.',
    )
    redis_url: SecretStr = Field(
        default=SecretStr('redis://localhost:6379/0'),
        description="The application's cache, database 0; only watched.",
    )

    # PostgreSQL: DATABASE_URL, or its parts.
    database_url: SecretStr | None = Field(
        default=None, description='postgresql://...; wins over the DB_ variables.'
    )
    database_direct_url: SecretStr | None = Field(
        default=None,
        description='Past the pooler that DATABASE_URL leads through (pgbouncer): for NOTIFY, and for migrations.',
    )
    db_host: str = Field(
        default='localhost', description='Host, or the directory of a Unix socket.'
    )
    db_port: int = Field(default=5432, ge=1, le=65535, description='Port.')
    db_user: str = Field(default='postgres', description='Role.')
    db_password: SecretStr = Field(default=SecretStr(''), description='Password.')
    db_name: str = Field(default='postgres', description='Database.')
    db_pool_size: int = Field(
        default=8, ge=2, le=200, description='Connections a worker keeps at most.'
    )
    db_naive_timezone: str = Field(
        default='UTC',
        description="What times without a zone in the application's tables mean: UTC, or a name such as Asia/Tokyo.",
    )
    db_connect_timeout_s: float = Field(
        default=5, gt=0, le=120, description='Connecting to PostgreSQL.'
    )
    db_command_timeout_s: float = Field(
        default=15, gt=0, le=300, description='One SQL statement; below WORKER_LEASE_S.'
    )

    # MongoDB: attachments only.
    mongodb_url: SecretStr = Field(
        default=SecretStr('mongodb://localhost:27017'),
        description='mongodb:// or mongodb+srv://; holds attachments.',
    )
    mongodb_database: str = Field(
        default='mail', pattern=r'^[A-Za-z0-9_-]{1,63}$', description='Database.'
    )
    mongodb_timeout_s: float = Field(default=5, gt=0, le=120, description='One MongoDB operation.')

    # SMTP: one relay, and one to fall back on.
    smtp_host: str = Field(default='localhost', min_length=1, description='The relay.')
    smtp_port: int = Field(
        default=587, ge=1, le=65535, description='465 means TLS from the first byte.'
    )
    smtp_user: str | None = Field(default=None, description='Without it there is no AUTH.')
    smtp_password: SecretStr | None = Field(default=None, description='Password.')
    smtp_use_tls: bool = Field(
        default=True, description='Require TLS: STARTTLS, or from the first byte on port 465.'
    )
    smtp_auth_mechanisms: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description='AUTH by these only, in this order: xoauth2, cram-md5, plain, login, comma separated. '
        'By default all that both sides know, in that order.',
    )
    smtp_oauth_token_file: Path | None = Field(
        default=None,
        description='File with the access token for XOAUTH2, which somebody else renews.',
    )
    smtp_oauth_token_command: SecretStr | None = Field(
        default=None,
        description='Command that prints the access token, or JSON with access_token and expires_in; run without a '
        'shell whenever the last one is over.',
    )
    smtp_oauth_timeout_s: float = Field(
        default=30, gt=0, le=300, description='One run of that command.'
    )
    smtp_ehlo_name: str | None = Field(
        default=None,
        description="Our name in EHLO: a domain or an address literal. By default the host's full name, or without one "
        'the address it connects from.',
    )
    smtp_ca_file: Path | None = Field(
        default=None, description='PEM file of a private certificate authority.'
    )
    smtp_from_email: str = Field(
        default='noreply@localhost', description='From address and envelope sender.'
    )
    smtp_from_name: str | None = Field(default=None, description='Name in the From header.')
    smtp_backup_host: str | None = Field(
        default=None, description='The relay to fall back on; none by default.'
    )
    smtp_backup_port: int = Field(default=587, ge=1, le=65535, description='As SMTP_PORT.')
    smtp_backup_user: str | None = Field(default=None, description='As SMTP_USER.')
    smtp_backup_password: SecretStr | None = Field(default=None, description='As SMTP_PASSWORD.')
    smtp_backup_auth_mechanisms: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description='As SMTP_AUTH_MECHANISMS.'
    )
    smtp_backup_oauth_token_file: Path | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_FILE.'
    )
    smtp_backup_oauth_token_command: SecretStr | None = Field(
        default=None, description='As SMTP_OAUTH_TOKEN_COMMAND.'
    )
    smtp_backup_use_tls: bool = Field(default=True, description='As SMTP_USE_TLS.')
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

    # E-mail policy.
    email_max_attempts: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description='Attempts of e-mails that do not say, also as the column default, by db.migrate. '
        'Without it: as many as fit before expires_at, or into EMAIL_EXPIRY_HOURS. `ops schedule` prints the times.',
    )
    email_retry_base_delay_s: float = Field(
        default=60,
        gt=0,
        validation_alias='EMAIL_RETRY_BASE_DELAY',
        description='Seconds before the second attempt; doubled each time.',
    )
    email_retry_max_delay_s: float = Field(
        default=3600,
        gt=0,
        validation_alias='EMAIL_RETRY_MAX_DELAY',
        description='Seconds between two attempts at most.',
    )
    email_expiry_hours: float = Field(
        default=24,
        gt=0,
        le=87600,
        description='What an expired e-mail gets when it is retried; queue_email gives new ones 24. '
        'Rows without expires_at do not expire, but are tried no longer than this.',
    )
    email_hold_types: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description='email_types whose uncertain attempts wait for an operator, comma separated.',
    )
    adoption_hold_after_hours: float = Field(
        default=24,
        gt=0,
        le=87600,
        description='E-mails of an adopted table that were due longer ago when it was taken over are held, not sent.',
    )
    email_max_bytes: int = Field(
        default=MAX_MESSAGE_BYTES, ge=1024, description='A whole message, encoded.'
    )
    email_retention_days: int = Field(
        default=90,
        ge=1,
        le=36500,
        description='Finished e-mails are deleted after this; from a table that was there before only if it is set.',
    )
    session_retention_days: int = Field(
        default=90, ge=1, le=36500, description='Sessions and refresh tokens older than this go.'
    )
    cleanup_session_tables: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="The application's own tables that SESSION_RETENTION_DAYS is for, such as sessions,refresh_tokens.",
    )

    # The worker.
    worker_name: str | None = Field(
        default=None, max_length=100, description='Default: worker@host:pid.'
    )
    worker_max_jobs: int = Field(default=400, ge=1, le=1000, description='Jobs at once.')
    worker_sweep_size: int = Field(
        default=300,
        ge=1,
        le=1000,
        description='The most e-mails under way, and a tenth more if urgent; fewer where 0.1 s needs fewer.',
    )
    worker_max_bytes_in_flight: int | None = Field(
        default=None,
        ge=1024 * 1024,
        description='Content of large e-mails in memory at once; small mail goes on beside them. '
        "By default a sixteenth of the process's memory limit, 16 to 256 MiB.",
    )
    worker_poll_delay_s: float = Field(
        default=0.1, ge=0.01, le=10, description='How often Redis is asked for jobs.'
    )
    worker_lease_s: float = Field(
        default=25, ge=2, description='A claim not renewed for this long is rescued.'
    )
    worker_beat_s: float = Field(
        default=8, ge=0.1, description='Claims are renewed, lost ones rescued, this often.'
    )
    worker_drain_s: int = Field(
        default=20, ge=0, le=3600, description='SIGTERM: running mail may finish this long.'
    )
    worker_recycle_jobs: int = Field(
        default=0,
        ge=0,
        description='Drain and exit after so many jobs or e-mails, or up to a tenth fewer; 0: never.',
    )
    worker_recycle_rss_mib: int = Field(
        default=0,
        ge=0,
        description='Drain and exit when the process holds so much memory, or up to a tenth less.',
    )
    worker_keep_result_s: int = Field(
        default=3600, ge=0, description="How long a job's result can be read."
    )
    queue_routing: bool = Field(
        default=False,
        description='E-mails go through the queue high_priority, maintenance through low_priority.',
    )

    # The web page.
    web_host: str = Field(
        default='127.0.0.1',
        min_length=1,
        description='Where `python -m web` listens; what other machines can reach needs WEB_TOKEN.',
    )
    web_port: int = Field(
        default=8025, ge=0, le=65535, description='Its port; 0: any free one, which the log tells.'
    )
    web_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description='Bearer token, or password of HTTP Basic, that the web page asks for.',
    )

    # Logs.
    log_level: Literal['DEBUG', 'INFO', 'WARNING', 'ERROR'] = Field(
        default='INFO', description='Least severe shown.'
    )
    log_format: Literal['auto', 'json', 'console'] = Field(
        default='auto', description='auto: console on a terminal, JSON otherwise.'
    )

    @field_validator('email_hold_types', 'cleanup_session_tables', mode='before')
    @classmethod
    def _split_types(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(',') if part.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator('cleanup_session_tables')
    @classmethod
    def _check_tables(cls, value: frozenset[str]) -> frozenset[str]:
        for name in sorted(value):
            parts = name.split('.')
            if len(parts) > 2 or not all(
                IDENTIFIER.fullmatch(part) and len(part.encode()) < 64 for part in parts
            ):
                raise ValueError(
                    'must be names of tables as PostgreSQL spells them: sessions,app.refresh_tokens'
                )
            if parts[-1] in OWN_TABLES:
                raise ValueError(
                    f'{parts[-1]} is a table of this program, see EMAIL_RETENTION_DAYS'
                )
        return value

    @field_validator('arq_redis_url', 'redis_url')
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        redis_settings(value.get_secret_value())
        return value

    @field_validator('database_url', 'database_direct_url')
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_url(value.get_secret_value(), 'postgresql', 'postgres')
            try:
                check_postgres_url(value.get_secret_value())
            except ValueError as error:
                raise ValueError(f'{error}; {PERCENT_ENCODE}') from None
        return value

    @field_validator('db_host')
    @classmethod
    def _check_db_host(cls, value: str) -> str:
        if not value.startswith('/') and re.search(r'[@\s]', value):
            raise ValueError('must be the name or the address of a host, or a directory')
        return value

    @field_validator('db_naive_timezone')
    @classmethod
    def _check_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, ZoneInfoNotFoundError):  # it is looked up as a file
            raise ValueError('must be the name of a time zone, such as UTC or Asia/Tokyo') from None
        return value

    @field_validator('mongodb_url')
    @classmethod
    def _check_mongodb_url(cls, value: SecretStr) -> SecretStr:
        if (
            read_url(value.get_secret_value(), 'mongodb', 'mongodb+srv').scheme == 'mongodb'
        ):  # the other asks the DNS
            try:
                parse_uri(value.get_secret_value())
            except OSError as error:
                raise ValueError(
                    f'{error.filename or "a file"} that it names cannot be read'
                ) from None
            except (ValueError, PyMongoError):
                raise ValueError(f'not a MongoDB URL; {PERCENT_ENCODE}') from None
        return value

    @field_validator('smtp_auth_mechanisms', 'smtp_backup_auth_mechanisms', mode='before')
    @classmethod
    def _split_mechanisms(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        named = tuple(
            dict.fromkeys(part.strip().lower() for part in value.split(',') if part.strip())
        )
        if unknown := [name for name in named if name not in MECHANISMS]:
            raise ValueError(f'{", ".join(unknown)}: we know only {", ".join(MECHANISMS)}')
        return named

    @field_validator('smtp_oauth_token_command', 'smtp_backup_oauth_token_command')
    @classmethod
    def _check_command(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                words = shlex.split(value.get_secret_value())
            except ValueError:
                raise ValueError('its quotes are not closed') from None
            if not words or shutil.which(words[0]) is None:
                raise ValueError('its first word is no program that can be run')
        return value

    @field_validator('smtp_ehlo_name')
    @classmethod
    def _check_ehlo_name(cls, value: str | None) -> str | None:
        if value is not None and not is_name(value):
            raise ValueError(
                'must be a domain in ASCII, such as mail.example.com, or an address literal: [192.0.2.1]'
            )
        return value

    @field_validator('smtp_ca_file')
    @classmethod
    def _check_ca_file(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if not value.is_file():
            raise ValueError(f'{value} is not a file')
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError as error:
            raise ValueError(f'{value} holds no certificate in PEM form') from error
        return value

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
    def _check_times(self) -> Self:
        # Three beats fit in a lease, so that one late renewal is not a lost claim.
        if self.worker_beat_s * 2.5 > self.worker_lease_s:
            raise ValueError('WORKER_LEASE_S must be at least 2.5 times WORKER_BEAT_S')
        if self.email_retry_base_delay_s > self.email_retry_max_delay_s:
            raise ValueError('EMAIL_RETRY_BASE_DELAY must not be above EMAIL_RETRY_MAX_DELAY')
        for prefix in ('smtp_', 'smtp_backup_'):
            self._check_login(prefix)
        return self

    def _check_login(self, prefix: str) -> None:
        user, password, mechanisms, file, command = (
            getattr(self, prefix + part)
            for part in (
                'user',
                'password',
                'auth_mechanisms',
                'oauth_token_file',
                'oauth_token_command',
            )
        )
        name = prefix.upper()
        has_token = file is not None or command is not None
        if file is not None and command is not None:
            raise ValueError(
                f'{name}OAUTH_TOKEN_FILE and {name}OAUTH_TOKEN_COMMAND exclude each other'
            )
        if has_token and not user:
            raise ValueError(f'{name}OAUTH_TOKEN_... needs {name}USER')
        if user and password is None and not has_token:
            raise ValueError(f'{name}USER needs {name}PASSWORD, or an OAUTH_TOKEN_FILE or _COMMAND')
        if 'xoauth2' in mechanisms and not has_token:
            raise ValueError(
                f'{name}AUTH_MECHANISMS: xoauth2 needs {name}OAUTH_TOKEN_FILE or _COMMAND'
            )
        if user and password is None and set(mechanisms) - {'xoauth2'}:
            raise ValueError(f'{name}AUTH_MECHANISMS: all but xoauth2 need {name}PASSWORD')

    @property
    def postgres_dsn(self) -> str:
        """Where PostgreSQL is, as a URL with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = quote(self.db_password.get_secret_value(), safe='')
        credentials = f'{quote(self.db_user, safe="")}{":" + password if password else ""}'
        host = quote(self.db_host, safe='') if self.db_host.startswith('/') else self.db_host
        host = f'[{host}]' if ':' in host else host
        return f'postgresql://{credentials}@{host}:{self.db_port}/{quote(self.db_name, safe="")}'

    @property
    def postgres_place(self) -> str:
        """Where PostgreSQL is, for people: host, port and database without the password."""
        return place_of(self.postgres_dsn, 5432) or 'the address in DATABASE_URL'

    @property
    def direct_dsn(self) -> str:
        """Where PostgreSQL is without a pooler, for what needs a session: LISTEN and migrations."""
        return (
            self.database_direct_url.get_secret_value()
            if self.database_direct_url
            else self.postgres_dsn
        )

    @property
    def direct_place(self) -> str:
        """As postgres_place, of direct_dsn."""
        return place_of(self.direct_dsn, 5432) or 'the address in DATABASE_DIRECT_URL'

    @property
    def retry_policy(self) -> Policy:
        """How often and when e-mails are tried again."""
        return Policy(
            base_delay_s=self.email_retry_base_delay_s,
            max_delay_s=self.email_retry_max_delay_s,
            hold_types=self.email_hold_types,
            max_attempts=self.email_max_attempts,
            life_s=self.email_expiry_hours * 3600,
        )

    @property
    def job_timeout_s(self) -> float:
        """The longest an orderly attempt can take on two relays, so that arq never cuts one off."""
        setup = 5 * self.smtp_connect_timeout_s
        dialogue = (
            6 * self.smtp_command_timeout_s + self.smtp_body_timeout_s + self.smtp_reply_timeout_s
        )
        return 2 * (setup + dialogue) + self.mongodb_timeout_s + 2 * self.db_command_timeout_s


class _Sources(Settings):
    """Settings with the file sources in place; kept apart so that tests can build Settings from values alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - EnvFile replaces it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - SecretFiles replaces it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            SecretFiles(settings_cls),
            EnvFile(settings_cls, ENV_FILE),
        )


def load_settings() -> Settings:
    """Read and check all settings.

    Raises:
        SystemExit: one line that names the variable and says what is wrong; never the value, which
            may be a secret.
    """
    try:
        return _Sources()
    except ValidationError as error:
        first = error.errors()[0]
        name = _variable(str(first['loc'][0])) if first['loc'] else 'the combination of values'
        reason = first['msg'].removeprefix('Value error, ')
        more = f' (and {error.error_count() - 1} more)' if error.error_count() > 1 else ''
        raise SystemExit(
            f'settings: {name}: {reason}{more}. Every variable is described in docs/configuration.md'
        ) from error


def _variable(location: str) -> str:
    """Return the variable a faulty value came from, which may be an older name for the same setting."""
    for field_name, field in Settings.model_fields.items():
        names = variable_names(field_name, field)
        if location == field_name or location in names:
            return next((name for name in names if os.environ.get(name)), names[0])
    return location.upper()


def worker_identity(settings: Settings, queue_name: str) -> str:
    """Return the name this process signs its claims with: unique per process, readable by people."""
    role = settings.worker_name or ('worker' if queue_name == 'arq:queue' else queue_name)
    return f'{role}@{socket.gethostname()}:{os.getpid()}'
