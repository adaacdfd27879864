"""The servers besides the relays: Redis, PostgreSQL, MongoDB."""

import re
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, Field, SecretStr, field_validator

from configuration.variables import Variables
from db.address import check_postgres_url
from engine.redis_url import redis_settings
from engine.urls import PERCENT_ENCODE, place_of, read_url


class RedisVariables(Variables):
    """Redis: the queue has a database of its own; the cache is only watched."""

    arq_redis_url: SecretStr = Field(
        default=SecretStr('redis://localhost:6379/1'),
        validation_alias=AliasChoices('ARQ_REDIS_URL', 'CELERY_BROKER_URL'),
        description='The queue: redis://, rediss://, unix:// or redis+sentinel://, database 1; '
        'or CELERY_BROKER_URL.',
    )
    celery_broker_url: SecretStr | None = Field(
        default=None,
        description='Where import-celery, db.migrate and doctor look for Celery, if not in '
        'ARQ_REDIS_URL.',
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="The application's cache, database 0; only watched. Without it none is.",
    )

    @field_validator('arq_redis_url', 'redis_url')
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            redis_settings(value.get_secret_value())
        return value

    @property
    def cache_url(self) -> str | None:
        """REDIS_URL, plain."""
        return None if self.redis_url is None else self.redis_url.get_secret_value()


class PostgresVariables(Variables):
    """PostgreSQL: DATABASE_URL, or its parts."""

    database_url: SecretStr | None = Field(
        default=None, description='postgresql://...; wins over the DB_ variables.'
    )
    database_direct_url: SecretStr | None = Field(
        default=None,
        description='Past the pooler that DATABASE_URL leads through (pgbouncer): for NOTIFY, '
        'and for migrations.',
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
        description="What times without a zone in the application's tables mean: UTC, or a name "
        'such as Asia/Tokyo.',
    )
    db_connect_timeout_s: float = Field(
        default=5, gt=0, le=120, description='Connecting to PostgreSQL.'
    )
    db_command_timeout_s: float = Field(
        default=15, gt=0, le=300, description='One SQL statement; below WORKER_LEASE_S.'
    )

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


class MongoVariables(Variables):
    """MongoDB: attachments only."""

    mongodb_url: SecretStr | None = Field(
        default=None,
        description='mongodb:// or mongodb+srv://; holds attachments of store_attachments. '
        'Without it there is no MongoDB, and attachments are in PostgreSQL alone.',
    )
    mongodb_database: str = Field(
        default='mail', pattern=r'^[A-Za-z0-9_-]{1,63}$', description='Database.'
    )
    mongodb_timeout_s: float = Field(default=5, gt=0, le=120, description='One MongoDB operation.')

    @property
    def mongodb_dsn(self) -> str | None:
        """The URL with its password; None where there is no MongoDB."""
        return None if self.mongodb_url is None else self.mongodb_url.get_secret_value()

    @field_validator('mongodb_url')
    @classmethod
    def _check_mongodb_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        read_url(value.get_secret_value(), 'mongodb', 'mongodb+srv')
        return value


def refusal_of_mongodb_url(value: SecretStr) -> str | None:
    """Return why the driver would not take a URL of Settings.mongodb_url; None: it would.

    Apart from the other checks: the driver takes long to import, and few commands use it.
    """
    if value.get_secret_value().startswith('mongodb+srv:'):
        return None  # it asks the DNS
    from pymongo.errors import PyMongoError  # noqa: PLC0415 - it takes long to import
    from pymongo.uri_parser import parse_uri  # noqa: PLC0415 - the same

    try:
        parse_uri(value.get_secret_value())
    except OSError as error:
        return f'{error.filename or "a file"} that it names cannot be read'
    except (ValueError, PyMongoError):
        return f'not a MongoDB URL; {PERCENT_ENCODE}'
    return None
