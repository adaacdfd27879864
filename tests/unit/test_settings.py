"""Every setting: where it is read from, and how a wrong one stops the process."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args as parse_as_asyncpg_does

from configuration.relays import relay_options
from configuration.sources import variable_names
from mail.relay.options import Tls
from settings import Settings, load_settings, worker_identity

ROOT = Path(__file__).parents[2]
NAMES = [
    name
    for field_name, field in Settings.model_fields.items()
    for name in variable_names(field_name, field)
]

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Set variables, in an otherwise empty environment and a directory without .env."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f'{name}_FILE', raising=False)
    monkeypatch.delenv('CREDENTIALS_DIRECTORY', raising=False)
    monkeypatch.delenv('PGPASSFILE', raising=False)
    monkeypatch.chdir(tmp_path)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def refusal() -> str:
    """Return the line that the process stops with."""
    with pytest.raises(SystemExit) as raised:
        load_settings()
    line = str(raised.value)
    assert line.startswith('settings: ')
    assert '\n' not in line
    return line


def test_without_any_variable_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.arq_redis_url.get_secret_value() == 'redis://localhost:6379/1'
    assert settings.redis_url is None
    assert settings.postgres_dsn == 'postgresql://postgres@localhost:5432/postgres'


# Wrong values.


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('DB_PORT', 'hunter2'),
        ('DB_PORT', '70000'),
        ('DB_POOL_SIZE', '1'),
        ('SMTP_PORT', '587tls'),
        ('SMTP_USE_TLS', 'maybe'),
        ('SMTP_CA_FILE', '/does/not/exist.pem'),
        ('SMTP_REPLY_TIMEOUT_S', 'nan'),
        ('EMAIL_MAX_ATTEMPTS', '0'),
        ('EMAIL_RETRY_BASE_DELAY', '0'),
        ('EMAIL_RETRY_BASE_DELAY', 'soon'),
        ('EMAIL_EXPIRY_HOURS', '-1'),
        ('WORKER_NAME', 'x' * 101),
        ('WORKER_LEASE_S', 'inf'),
        ('EMAIL_EXPIRY_HOURS', 'inf'),
        ('EMAIL_RETRY_MAX_DELAY', 'inf'),
        ('WEB_PORT', '65536'),
        ('WEB_TOKEN', 'hunter2'),
        ('LOG_LEVEL', 'LOUD'),
        ('LOG_FORMAT', 'xml'),
        ('ARQ_REDIS_URL', 'amqp://mail:hunter2@localhost/1'),
        ('CELERY_BROKER_URL', 'amqp://mail:hunter2@localhost/1'),
        ('REDIS_URL', 'localhost:6379'),
        ('REDIS_URL', 'http://[hunter2'),
        ('DATABASE_URL', 'mysql://mail:hunter2@localhost/mail'),
        ('DATABASE_URL', 'postgresql://mail:hunter2@localhost:port/mail'),
        ('MONGODB_URL', 'http://mail:hunter2@localhost'),
        ('DATABASE_URL', 'postgresql://mail:hunter2@[::1/mail'),
        ('MONGODB_URL', 'mongodb://mail:hunter2@localhost:port'),
        ('MONGODB_URL', 'mongodb://mail:hunter2@localhost/?tls=true&tlsCAFile=/nowhere/ca.pem'),
        ('SMTP_FROM_EMAIL', 'noreply'),
        ('SMTP_FROM_EMAIL', 'a@example.com, b@example.com'),
        ('SMTP_FROM_EMAIL', 'Shop <shop@example.com>'),
        ('SMTP_FROM_EMAIL', 'a@b@example.com'),
        ('SMTP_FROM_EMAIL', 'shop@example..com'),
        ('SMTP_FROM_EMAIL', 'jörg@example.com'),
        ('SMTP_FROM_NAME', 'The\nShop'),
        ('SMTP_EHLO_NAME', 'mail.example.com\r\nMAIL FROM:<x>'),
        ('SMTP_EHLO_NAME', 'mail example com'),
        ('SMTP_EHLO_NAME', 'mäil.example.com'),
        ('SMTP_EHLO_NAME', '[192.0.2.256]'),
        ('SMTP_AUTH_MECHANISMS', 'plain,ntlm'),
        ('SMTP_OAUTH_TOKEN_COMMAND', "print 'hunter2"),
        ('SMTP_OAUTH_TOKEN_COMMAND', '/no/such/program --secret=hunter2'),
        ('SMTP_OAUTH_TIMEOUT_S', '0'),
    ],
)
def test_wrong_value_stops_with_one_line_that_names_the_variable(
    configure: Configure, name: str, value: str
) -> None:
    configure(**{name: value})
    line = refusal()
    assert f'settings: {name}: ' in line
    assert 'hunter2' not in line


def test_sender_in_an_international_domain_is_refused_or_made_ascii(configure: Configure) -> None:
    """MAIL FROM travels as ASCII; every e-mail would be refused for good."""
    configure(SMTP_FROM_EMAIL='shop@bücher.example')
    try:
        told = load_settings().smtp_from_email
    except SystemExit as stop:
        told = str(stop)
    assert told == 'shop@xn--bcher-kva.example' or told.startswith('settings: SMTP_FROM_EMAIL: ')


def test_values_that_contradict_each_other_are_both_named(configure: Configure) -> None:
    configure(WORKER_LEASE_S='20', WORKER_BEAT_S='10')
    line = refusal()
    assert 'WORKER_LEASE_S' in line
    assert 'WORKER_BEAT_S' in line


def test_several_wrong_values_are_counted(configure: Configure) -> None:
    configure(DB_PORT='x', SMTP_PORT='y', LOG_LEVEL='z')
    assert '(and 2 more: see `python -m ops config check`)' in refusal()


@pytest.mark.parametrize(
    'url',
    ['redis://:hunter2@localhost:port/1', 'redis://localhost/one', 'redis://localhost/1?unknown=1'],
)
def test_worker_stops_with_one_line_at_a_redis_url_it_cannot_use(
    configure: Configure, url: str
) -> None:
    configure(ARQ_REDIS_URL=url)
    spec = importlib.util.spec_from_file_location('worker_with_a_wrong_url', ROOT / 'worker.py')
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(SystemExit) as raised:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert 'ARQ_REDIS_URL' in str(raised.value)
    assert 'hunter2' not in str(raised.value)
    assert '\n' not in str(raised.value)


def test_secrets_are_not_shown_with_the_settings(configure: Configure) -> None:
    configure(
        DB_PASSWORD='hunter2',
        DATABASE_URL='postgresql://u:hunter2@h/d',
        ARQ_REDIS_URL='redis://:hunter2@h/1',
        REDIS_URL='redis://:hunter2@h/0',
        MONGODB_URL='mongodb://u:hunter2@h',
        SMTP_PASSWORD='hunter2',
        SMTP_BACKUP_PASSWORD='hunter2',
        WEB_TOKEN='hunter2hunter2hunter2',
    )
    settings = load_settings()
    assert 'hunter2' not in repr(settings) + str(settings) + settings.postgres_place


# Where values come from.


def test_celery_broker_url_is_accepted_for_the_queue(configure: Configure) -> None:
    configure(CELERY_BROKER_URL='redis://old/1')
    assert load_settings().arq_redis_url.get_secret_value() == 'redis://old/1'


def test_celerys_broker_is_known_beside_the_queue(configure: Configure) -> None:
    configure(CELERY_BROKER_URL='redis://old/0', ARQ_REDIS_URL='redis://new/1')
    settings = load_settings()
    assert settings.celery_broker_url is not None
    assert settings.celery_broker_url.get_secret_value() == 'redis://old/0'
    assert settings.arq_redis_url.get_secret_value() == 'redis://new/1'


def test_arq_redis_url_wins_over_celery_broker_url(configure: Configure) -> None:
    configure(CELERY_BROKER_URL='amqp://old', ARQ_REDIS_URL='redis://new/1')
    assert load_settings().arq_redis_url.get_secret_value() == 'redis://new/1'


def test_names_of_existing_installations_are_read(configure: Configure) -> None:
    configure(
        EMAIL_MAX_ATTEMPTS='3',
        EMAIL_RETRY_BASE_DELAY='30',
        EMAIL_EXPIRY_HOURS='48',
        MONGODB_DATABASE='app',
    )
    settings = load_settings()
    assert (
        settings.email_max_attempts,
        settings.email_retry_base_delay_s,
        settings.email_expiry_hours,
    ) == (3, 30, 48)
    assert settings.mongodb_database == 'app'


def test_empty_variable_counts_as_unset(configure: Configure) -> None:
    defaults = load_settings().model_dump()
    configure(**dict.fromkeys(NAMES, ''))
    assert load_settings().model_dump() == defaults


def test_hold_types_are_a_comma_separated_list(configure: Configure) -> None:
    configure(EMAIL_HOLD_TYPES=' receipt, invoice,,')
    assert load_settings().email_hold_types == {'receipt', 'invoice'}


def test_tables_of_sessions_are_a_comma_separated_list_of_names(configure: Configure) -> None:
    assert load_settings().cleanup_session_tables == frozenset()
    configure(CLEANUP_SESSION_TABLES='sessions, app.refresh_tokens,Logins,')
    assert load_settings().cleanup_session_tables == {'sessions', 'app.refresh_tokens', 'Logins'}


@pytest.mark.parametrize(
    'value',
    ['a b', 'sessions; DROP TABLE users', 'a.b.c', '"sessions"', '1st', 'x' * 64, '.sessions',
        'outbound_emails',
     'public.mail_outbox', 'cron_runs'],
)  # fmt: skip
def test_what_names_no_table_or_one_of_ours_is_refused(configure: Configure, value: str) -> None:
    configure(CLEANUP_SESSION_TABLES=value)
    assert refusal().startswith('settings: CLEANUP_SESSION_TABLES: ')


@pytest.mark.parametrize(
    'value', ['Nowhere/City', '../etc/passwd', '/etc/localtime', 'Europe', '9', 'a b']
)
def test_what_names_no_time_zone_is_refused(configure: Configure, value: str) -> None:
    configure(DB_NAIVE_TIMEZONE=value)
    assert refusal().startswith('settings: DB_NAIVE_TIMEZONE: must be the name of a time zone')


def test_retention_that_is_set_to_its_default_is_told_from_one_that_is_not(
    configure: Configure,
) -> None:
    assert 'email_retention_days' not in load_settings().model_fields_set
    configure(EMAIL_RETENTION_DAYS='90')
    assert 'email_retention_days' in load_settings().model_fields_set


def test_env_file_is_read() -> None:
    Path('.env').write_text("DB_HOST=from-file\nDB_PASSWORD='p#ss word'\nSMTP_FROM_NAME=\n")
    settings = load_settings()
    assert (settings.db_host, settings.db_password.get_secret_value()) == ('from-file', 'p#ss word')
    assert settings.smtp_from_name is None


def test_env_file_may_begin_with_a_byte_order_mark_and_hold_other_programs_lines() -> None:
    text = """\ufeffDB_HOST=from-file
# "a comment
export DB_NAME = "app"
set -a
JWT_KEY="-----BEGIN KEY-----
MIIBVgIBADANBgkq==
-----END KEY-----"
DB_USER='mail' # "who
"""
    Path('.env').write_text(text, encoding='utf-8')
    settings = load_settings()
    assert (settings.db_host, settings.db_name, settings.db_user) == ('from-file', 'app', 'mail')


@pytest.mark.parametrize(
    'password', ['pa$$word', '$HOME', '${HOME}', '${DB_HOST}', '$(id)', '${UNSET:-x}']
)
@pytest.mark.parametrize('quote', ['', "'", '"'])
def test_dollar_in_the_env_file_stands_for_itself(password: str, quote: str) -> None:
    Path('.env').write_text(f'DB_HOST=h\nDB_PASSWORD={quote}{password}{quote}\n')
    assert load_settings().db_password.get_secret_value() == password


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('DB_HOST=h\n\nDB_PASSWORD="hunter2\nDB_NAME=app\n', 3),
        ("DB_HOST=h\nDB_PASSWORD='hunter2\nDB_NAME=app\n", 2),
        ('DB_PASSWORD="hunter2\nDB_NAME="app"\n', 1),
        ('DB_PASSWORD="hunter2\nDB_NAME=app\nDB_USER="\n', 1),
        ('OTHER="hunter2\nDB_NAME=app\nMORE="\n', 1),
        ('DB_HOST=h\nDB_PASSWORD="hunter2" x\n', 2),
        ('DB_HOST=h\nDB PASSWORD=hunter2\n', 2),
        ('DB_HOST=h\n=hunter2\n', 2),
    ],
)
def test_unclosed_quote_in_the_env_file_is_refused_with_its_line(text: str, line: int) -> None:
    Path('.env').write_text(text)
    told = refusal()
    assert f'.env: line {line}: ' in told
    assert 'hunter2' not in told


@pytest.mark.parametrize(
    ('data', 'line', 'word'),
    [
        ('DB_HOST=h\n'.encode('utf-16'), 1, 'UTF-16'),
        ('DB_HOST=h\n'.encode('utf-32'), 1, 'UTF-32'),
        ('DB_HOST=h\n'.encode('utf-16-le'), 1, 'UTF-8'),
        ('DB_HOST=h\nSMTP_FROM_NAME=Müller\n'.encode('latin-1'), 2, 'UTF-8'),
        ('DB_HOST=h\n\nSMTP_FROM_NAME=店\n'.encode('shift-jis'), 3, 'UTF-8'),
    ],
)
def test_env_file_in_another_encoding_is_refused_with_its_line(
    data: bytes, line: int, word: str
) -> None:
    Path('.env').write_bytes(data)
    told = refusal()
    assert f'.env: line {line}: ' in told
    assert word in told


# Passwords in URLs.

UNESCAPED = [
    'app:2024/hunter2@',
    'app:2024?hunter2@',
    'app:2024#hunter2@',
    'app:hun@ter2@',
    'app:hun%zzter2@',
    'app:hunter2%@',
    'app:hun[ter2@',
    'app:hun]ter2@',
    'app:hun ter2@',
    'app:hun\tter2@',
    'app:2024/hun@ter2@',
    'app:/hunter2@',
    'app:?@hunter2@',
    'app:#hunter2#@',
    'app:hun/ter2?x#y@',
]


@pytest.mark.parametrize('userinfo', UNESCAPED)
@pytest.mark.parametrize(
    ('name', 'url'),
    [
        ('DATABASE_URL', 'postgresql://{}db.example.com/mail'),
        ('DATABASE_URL', 'postgres://{}one:5432,two:5432/mail?target_session_attrs=read-write'),
        ('DATABASE_DIRECT_URL', 'postgresql://{}db.example.com:5432/mail'),
        ('ARQ_REDIS_URL', 'redis://{}redis.example.com:6379/1'),
        ('CELERY_BROKER_URL', 'rediss://{}redis.example.com/1'),
        ('ARQ_REDIS_URL', 'redis+sentinel://{}one,two/1?master=m'),
        ('REDIS_URL', 'redis://{}redis.example.com/0'),
        ('MONGODB_URL', 'mongodb://{}mongo.example.com/mail'),
        ('MONGODB_URL', 'mongodb+srv://{}mongo.example.com/mail'),
    ],
)
def test_unescaped_password_in_a_url_is_refused_with_its_variable_and_the_remedy_and_never_shown(
    configure: Configure, name: str, url: str, userinfo: str
) -> None:
    configure(**{name: url.format(userinfo)})
    line = refusal()
    assert line.startswith(f'settings: {name}: ')
    assert 'percent-encode' in line
    assert not any(piece in line for piece in ('hun', 'ter2', '2024'))


@pytest.mark.parametrize(
    ('name', 'url'),
    [
        ('DATABASE_URL', 'postgresql://app:h%2F%3F%23%40%3A%5B%25%20@db/mail'),
        ('DATABASE_URL', 'postgresql://u@h1:5432,h2:5432/db?target_session_attrs=read-write'),
        ('DATABASE_URL', 'postgresql:///mail?host=h1:5432,h2:5433&user=u'),
        ('DATABASE_URL', 'postgresql://u:p:q@%2Fvar%2Frun%2Fpostgresql/db'),
        ('DATABASE_URL', 'postgresql://u:pässwörd!$&()*+,;=@[::1]:5432/db'),
        ('ARQ_REDIS_URL', 'redis://:h%2F%3F%23%40%3A@redis/1'),
        ('ARQ_REDIS_URL', 'redis://:p!$&()*+,;=~@redis/1'),
        ('ARQ_REDIS_URL', 'unix://:p@/run/redis.sock?db=1'),
        (
            'MONGODB_URL',
            'mongodb://u:h%2F%3F@one:27017,two:27017/mail?replicaSet=rs0&authSource=$external',
        ),
        ('MONGODB_URL', 'mongodb://%2Ftmp%2Fmongodb.sock'),
    ],
)
def test_url_that_can_be_read_in_one_way_is_taken(
    configure: Configure, name: str, url: str
) -> None:
    configure(**{name: url})
    assert getattr(load_settings(), name.lower()).get_secret_value() == url


@pytest.mark.parametrize(
    'url',
    [
        'postgresql://u@h/db?sslmode=sometimes',
        'postgresql:///db?host=h&port=x',
        'postgresql:///db?host=h1,h2&port=1,2,3',
        'postgresql://u@h/db?target_session_attrs=sometimes',
        'postgresql://u@h/db?password=hunter2&hunter2',
        'postgresql://u@h/db?sslmode=verify-full&sslrootcert=/no/such/file',
    ],
)
def test_options_of_a_postgresql_url_that_make_no_sense_are_refused(
    configure: Configure, url: str
) -> None:
    configure(DATABASE_URL=url)
    line = refusal()
    assert line.startswith('settings: DATABASE_URL: ')
    assert 'hunter2' not in line


def test_direct_address_is_that_of_the_database_url_unless_there_is_one(
    configure: Configure,
) -> None:
    configure(DATABASE_URL='postgresql://u@pooler:6432/app')
    assert load_settings().direct_dsn == 'postgresql://u@pooler:6432/app'
    configure(DATABASE_DIRECT_URL='postgresql://u@db:5432/app')
    assert (load_settings().direct_dsn, load_settings().direct_place) == (
        'postgresql://u@db:5432/app',
        'db:5432/app',
    )


def test_secret_is_read_from_its_file(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'secret').write_text('p@ss wörd \n', encoding='utf-8')
    configure(SMTP_PASSWORD_FILE=str(tmp_path / 'secret'))
    password = load_settings().smtp_password
    assert password is not None
    assert password.get_secret_value() == 'p@ss wörd '


@pytest.mark.parametrize(
    'name', ['ARQ_REDIS_URL', 'CELERY_BROKER_URL', 'DATABASE_URL', 'EMAIL_RETRY_BASE_DELAY']
)
def test_any_variable_may_be_given_as_a_file(
    configure: Configure, tmp_path: Path, name: str
) -> None:
    values = {'DATABASE_URL': 'postgresql://h/d', 'EMAIL_RETRY_BASE_DELAY': '7'}
    (tmp_path / 'value').write_text(values.get(name, 'redis://file/1') + '\r\n')
    configure(**{f'{name}_FILE': str(tmp_path / 'value')})
    settings = load_settings()
    found = {
        'DATABASE_URL': settings.postgres_dsn,
        'EMAIL_RETRY_BASE_DELAY': str(int(settings.email_retry_base_delay_s)),
    }
    assert found.get(name, settings.arq_redis_url.get_secret_value()) == values.get(
        name, 'redis://file/1'
    )


@pytest.mark.parametrize('content', [None, b'\xff\xfe'])
def test_secret_file_that_cannot_be_read_is_named(
    configure: Configure, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / 'secret'
    if content is not None:
        path.write_bytes(content)
    configure(DB_PASSWORD_FILE=str(path))
    assert 'settings: DB_PASSWORD_FILE: cannot read' in refusal()


def test_wrong_value_in_a_secret_file_is_not_shown(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'secret').write_text('mysql://mail:hunter2@localhost/mail')
    configure(DATABASE_URL_FILE=str(tmp_path / 'secret'))
    assert 'hunter2' not in refusal()


def test_systemd_credentials_are_read(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'credentials').mkdir()
    (tmp_path / 'credentials' / 'DB_PASSWORD').write_text('from systemd\n')
    configure(CREDENTIALS_DIRECTORY=str(tmp_path / 'credentials'))
    assert load_settings().db_password.get_secret_value() == 'from systemd'


def test_environment_wins_over_files_and_files_win_over_the_env_file(
    configure: Configure, tmp_path: Path
) -> None:
    def told() -> Any:
        return load_settings().db_password.get_secret_value()

    Path('.env').write_text('DB_PASSWORD=env file\n')
    assert told() == 'env file'
    (tmp_path / 'DB_PASSWORD').write_text('credential')
    configure(CREDENTIALS_DIRECTORY=str(tmp_path))
    assert told() == 'credential'
    (tmp_path / 'secret').write_text('file')
    configure(DB_PASSWORD_FILE=str(tmp_path / 'secret'))
    assert told() == 'file'
    configure(DB_PASSWORD='environment')
    assert told() == 'environment'


def test_environment_wins_over_the_env_file_under_its_other_name(configure: Configure) -> None:
    Path('.env').write_text('ARQ_REDIS_URL=redis://file/1\n')
    configure(CELERY_BROKER_URL='redis://environment/1')
    assert load_settings().arq_redis_url.get_secret_value() == 'redis://environment/1'


# What is made of them.


@pytest.mark.parametrize(
    ('host', 'password'),
    [
        ('localhost', 'secret'),
        ('localhost', 'p@ss:w/o?r#d%'),
        ('10.0.0.1', ' ü&=+'),
        ('/run/postgresql', 'secret'),
        ('/run/postgresql', ''),
        ('::1', 'secret'),
    ],
)
def test_postgres_dsn_means_to_asyncpg_what_the_parts_say(
    configure: Configure, host: str, password: str
) -> None:
    configure(
        DB_HOST=host, DB_PORT='6432', DB_USER='mail@app', DB_PASSWORD=password, DB_NAME='mail/1'
    )
    unset = (
        'host',
        'port',
        'user',
        'password',
        'passfile',
        'database',
        'ssl',
        'service',
        'servicefile',
        'direct_tls',
    )
    more = ('server_settings', 'target_session_attrs', 'krbsrvname', 'gsslib')
    places, parameters = parse_as_asyncpg_does(
        dsn=load_settings().postgres_dsn, **dict.fromkeys((*unset, *more))
    )
    assert places == [f'{host}/.s.PGSQL.6432' if host.startswith('/') else (host, 6432)]
    assert (parameters.user, parameters.database) == ('mail@app', 'mail/1')
    assert (parameters.password or '') == password


def test_database_url_wins_over_its_parts(configure: Configure) -> None:
    configure(DATABASE_URL='postgresql://u:hunter2@db.example.com:6432/app', DB_HOST='other')
    settings = load_settings()
    assert settings.postgres_dsn == 'postgresql://u:hunter2@db.example.com:6432/app'
    assert settings.postgres_place == 'db.example.com:6432/app'


def test_job_timeout_covers_the_slowest_orderly_attempt_on_two_relays() -> None:
    settings = load_settings()
    reply_and_body_s = settings.smtp_reply_timeout_s + settings.smtp_body_timeout_s
    assert settings.job_timeout_s > 2 * (reply_and_body_s + 4 * settings.smtp_command_timeout_s)


def test_worker_identity_tells_role_host_and_process(configure: Configure) -> None:
    settings = load_settings()
    assert worker_identity(settings, 'arq:queue').startswith('worker@')
    assert worker_identity(settings, 'high_priority').startswith('high_priority@')
    assert worker_identity(settings, 'arq:queue').endswith(f':{os.getpid()}')
    configure(WORKER_NAME='blue')
    assert worker_identity(load_settings(), 'high_priority').startswith('blue@')


@pytest.mark.parametrize(
    ('variables', 'reason'),
    [
        (
            {'SMTP_USER': 'shop'},
            'SMTP_USER needs SMTP_PASSWORD, or an OAUTH_TOKEN_FILE or _COMMAND',
        ),
        ({'SMTP_OAUTH_TOKEN_FILE': '/run/token'}, 'SMTP_OAUTH_TOKEN_... needs SMTP_USER'),
        (
            {
                'SMTP_USER': 'shop',
                'SMTP_OAUTH_TOKEN_FILE': '/run/token',
                'SMTP_OAUTH_TOKEN_COMMAND': '/bin/true',
            },
            'exclude each other',
        ),
        (
            {'SMTP_USER': 'shop', 'SMTP_PASSWORD': 'x', 'SMTP_AUTH_MECHANISMS': 'xoauth2'},
            'xoauth2 needs SMTP_OAUTH_TOKEN_FILE or _COMMAND',
        ),
        (
            {
                'SMTP_USER': 'shop',
                'SMTP_OAUTH_TOKEN_FILE': '/run/token',
                'SMTP_AUTH_MECHANISMS': 'plain',
            },
            'all but xoauth2 need SMTP_PASSWORD',
        ),
        ({'SMTP_BACKUP_USER': 'shop'}, 'SMTP_BACKUP_USER needs SMTP_BACKUP_PASSWORD'),
    ],
)
def test_login_that_cannot_be_made_is_refused_at_the_start(
    configure: Configure, variables: dict[str, str], reason: str
) -> None:
    configure(**variables)
    assert reason in refusal()


def test_relays_log_in_as_the_settings_say(configure: Configure) -> None:
    configure(
        SMTP_USER='shop', SMTP_OAUTH_TOKEN_COMMAND="/bin/echo 'a token'",
        SMTP_AUTH_MECHANISMS='XOAUTH2',
        SMTP_BACKUP_HOST='backup.example.com', SMTP_BACKUP_USER='b', SMTP_BACKUP_PASSWORD='hunter2',
        SMTP_BACKUP_AUTH_MECHANISMS='login, plain,login', SMTP_EHLO_NAME='[IPv6:2001:db8::1]',
        SMTP_BACKUP_PORT='465',
    )  # fmt: skip
    primary, backup = relay_options(load_settings())
    assert (primary.name, primary.password, primary.auth_mechanisms, primary.tls) == (
        'primary', None, ('xoauth2',), Tls.STARTTLS,
    )  # fmt: skip
    assert primary.token is not None
    assert (backup.host, backup.password, backup.auth_mechanisms, backup.token, backup.tls) == (
        'backup.example.com', 'hunter2', ('login', 'plain'), None, Tls.IMPLICIT,
    )  # fmt: skip
    assert primary.local_hostname == backup.local_hostname == '[IPv6:2001:db8::1]'
    assert primary.tls_context is not backup.tls_context


def test_host_without_a_full_name_is_greeted_by_its_address(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    monkeypatch.setattr('socket.getfqdn', lambda: 'localhost')
    assert relay_options(load_settings())[0].local_hostname is None
    monkeypatch.setattr('socket.getfqdn', lambda: 'mail.example.com')
    assert relay_options(load_settings())[0].local_hostname == 'mail.example.com'
