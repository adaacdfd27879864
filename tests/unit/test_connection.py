"""Where Redis is, in arq's terms, and a client that waits for nothing."""

import ssl
from typing import Any

import pytest
from arq.connections import RedisSettings
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fleet.connection import open_redis, redis_settings
from fleet.wire import deserialize, serialize
from tests.unit.scripted_relay import STALL, ScriptedRelay


def parts(settings: RedisSettings, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(settings, name) for name in names)


@pytest.mark.parametrize(
    ('url', 'host', 'port', 'database'),
    [
        ('redis://localhost:6379/1', 'localhost', 6379, 1),
        ('redis://redis.internal/2', 'redis.internal', 6379, 2),
        ('redis://10.0.0.1:7000?db=3', '10.0.0.1', 7000, 3),
        ('redis://localhost', 'localhost', 6379, 0),
        ('redis://[::1]:6380/1', '::1', 6380, 1),
    ],
)
def test_url_gives_host_port_and_database(url: str, host: str, port: int, database: int) -> None:
    assert parts(redis_settings(url), 'host', 'port', 'database', 'ssl') == (host, port, database, False)


@pytest.mark.parametrize(
    ('userinfo', 'username', 'password'),
    [
        (':secret@', None, 'secret'),
        ('mail:secret@', 'mail', 'secret'),
        (':p%40ss%2Fw%3Ard%25@', None, 'p@ss/w:rd%'),
        ('m%C3%BCller:%20@', 'müller', ' '),
        ('', None, None),
    ],
)
def test_password_is_percent_decoded(userinfo: str, username: str | None, password: str | None) -> None:
    found = redis_settings(f'redis://{userinfo}localhost:6379/1')
    assert parts(found, 'username', 'password') == (username or None, password)


def test_rediss_checks_certificate_and_host_name() -> None:
    found = redis_settings('rediss://:secret@redis.example.com:6380/1')
    assert parts(found, 'ssl', 'ssl_check_hostname', 'ssl_cert_reqs') == (True, True, 'required')


def test_tls_options_are_kept() -> None:
    url = (
        'rediss://redis.example.com/1?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/c.pem&ssl_keyfile=/etc/k.pem'
        '&ssl_cert_reqs=none&ssl_check_hostname=false'
    )
    found = redis_settings(url)
    assert parts(found, 'ssl_ca_certs', 'ssl_certfile', 'ssl_keyfile') == ('/etc/ca.pem', '/etc/c.pem', '/etc/k.pem')
    assert parts(found, 'ssl_cert_reqs', 'ssl_check_hostname') == ('none', False)


def test_unix_socket_has_path_database_and_password() -> None:
    found = redis_settings('unix://:secret@/run/redis.sock?db=1')
    assert parts(found, 'unix_socket_path', 'database', 'password') == ('/run/redis.sock', 1, 'secret')


@pytest.mark.parametrize(
    'url',
    [
        'http://localhost/1',
        'localhost:6379/1',
        'redis://localhost:port/1',
        'redis://localhost:6379/1?db=x',
        'redis://localhost:6379/one',
        'redis://localhost/1?socket_timeout=5',
        'redis://localhost/1?ssl_ca_certs=/etc/ca.pem&unknown=1',
    ],
)
def test_url_that_cannot_be_used_as_it_is_written_is_refused(url: str) -> None:
    """Above all, a database that is no number must not become 0, which is the application's cache."""
    with pytest.raises(ValueError, match=r'.'):
        redis_settings(url)


@pytest.mark.parametrize('url', ['redis://localhost/1?password=hunter2&unknown=1', 'redis://:hun/ter2@localhost/1'])
def test_refusal_tells_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r'.') as raised:
        redis_settings(url)
    assert 'hun' not in str(raised.value)


@pytest.mark.parametrize(
    ('url', 'kind', 'expected'),
    [
        ('redis://mail:secret@localhost:7000/1', Connection, {'host': 'localhost', 'port': 7000, 'db': 1}),
        ('rediss://mail:secret@redis.example.com/1', SSLConnection, {'host': 'redis.example.com', 'db': 1}),
        ('unix://mail:secret@/run/redis.sock?db=1', UnixDomainSocketConnection, {'path': '/run/redis.sock', 'db': 1}),
    ],
)
def test_client_connects_to_what_the_url_says(url: str, kind: type, expected: dict[str, Any]) -> None:
    pool = open_redis(redis_settings(url), 'arq:queue').connection_pool
    assert issubclass(pool.connection_class, kind)
    options = pool.connection_kwargs
    assert expected.items() <= options.items()
    assert (options['username'], options['password']) == ('mail', 'secret')


def test_client_over_tls_checks_certificate_and_host_name() -> None:
    pool = open_redis(redis_settings('rediss://redis.example.com/1'), 'arq:queue').connection_pool
    connection = pool.make_connection()
    assert connection.ssl_context.check_hostname
    assert connection.ssl_context.cert_reqs == ssl.CERT_REQUIRED


def test_client_has_its_queue_and_its_codecs() -> None:
    settings = redis_settings('redis://localhost/1')
    redis = open_redis(settings, 'high_priority', job_serializer=serialize, job_deserializer=deserialize)
    assert redis.default_queue_name == 'high_priority'
    assert (redis.job_serializer, redis.job_deserializer) == (serialize, deserialize)


async def test_client_is_opened_without_redis_and_fails_at_the_first_command(free_port: int) -> None:
    redis = open_redis(redis_settings(f'redis://127.0.0.1:{free_port}/1'), 'arq:queue')
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    await redis.aclose()


async def test_frozen_redis_raises_instead_of_holding_its_caller_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('fleet.connection.COMMAND_TIMEOUT_S', 0.05)
    async with ScriptedRelay({'GREETING': STALL}) as frozen:
        redis = open_redis(redis_settings(f'redis://127.0.0.1:{frozen.port}/1'), 'arq:queue')
        with pytest.raises(RedisTimeoutError):
            await redis.ping()
        await redis.aclose()
