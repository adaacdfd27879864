"""Where Redis is, in arq's terms, and a client that waits for nothing."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
from engine.connection import open_redis
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize
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
    assert parts(redis_settings(url), 'host', 'port', 'database', 'ssl') == (
        host,
        port,
        database,
        False,
    )


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
def test_password_is_percent_decoded(
    userinfo: str, username: str | None, password: str | None
) -> None:
    found = redis_settings(f'redis://{userinfo}localhost:6379/1')
    assert parts(found, 'username', 'password') == (username or None, password)


def test_rediss_checks_certificate_and_host_name() -> None:
    found = redis_settings('rediss://:secret@redis.example.com:6380/1')
    assert parts(found, 'ssl', 'ssl_check_hostname', 'ssl_cert_reqs') == (True, True, 'required')


@pytest.fixture(scope='module')
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate, its key, both in one file, and a file that is neither."""
    directory = tmp_path_factory.mktemp('pem')
    server_tls_context(directory)
    certificate, key = directory / CERTIFICATE_NAME, directory / KEY_NAME
    both, neither = directory / 'both.pem', directory / 'neither.pem'
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    neither.write_text('geheim')
    return {'certificate': certificate, 'key': key, 'both': both, 'neither': neither}


def test_tls_options_are_kept(pem: dict[str, Path]) -> None:
    files = (
        f'ssl_ca_certs={pem["certificate"]}&ssl_certfile={pem["certificate"]}'
        f'&ssl_keyfile={pem["key"]}'
    )
    found = redis_settings(f'rediss://h/1?{files}&ssl_cert_reqs=none&ssl_check_hostname=false')
    kept = tuple(str(pem[name]) for name in ('certificate', 'certificate', 'key'))
    assert parts(found, 'ssl_ca_certs', 'ssl_certfile', 'ssl_keyfile') == kept
    assert parts(found, 'ssl_cert_reqs', 'ssl_check_hostname') == ('none', False)


@pytest.mark.parametrize(
    ('written', 'meant', 'checks'),
    [
        ('CERT_REQUIRED', 'required', True),
        ('ssl.CERT_REQUIRED', 'required', True),
        ('required', 'required', True),
        ('Required', 'required', True),
        ('2', 'required', True),
        ('CERT_OPTIONAL', 'optional', True),
        ('optional', 'optional', True),
        ('CERT_NONE', 'none', False),
        ('None', 'none', False),
        ('none', 'none', False),
        ('0', 'none', False),
    ],
)
def test_spellings_of_cert_reqs_that_people_use_are_understood(
    written: str, meant: str, *, checks: bool
) -> None:
    found = redis_settings(f'rediss://h/1?ssl_cert_reqs={written}')
    assert parts(found, 'ssl_cert_reqs', 'ssl_check_hostname') == (meant, checks)
    context = open_redis(found, 'arq:queue').connection_pool.make_connection().ssl_context.get()
    assert context.verify_mode == {'required': 2, 'optional': 1, 'none': 0}[meant]


@pytest.mark.parametrize(
    ('written', 'checks'),
    [('False', False), ('no', False), ('0', False), ('off', False), ('1', True)],
)
def test_host_name_is_checked_or_not_as_it_is_written(written: str, *, checks: bool) -> None:
    assert redis_settings(f'rediss://h/1?ssl_check_hostname={written}').ssl_check_hostname is checks


def test_certificate_and_key_may_be_in_one_file(pem: dict[str, Path]) -> None:
    found = redis_settings(f'rediss://h/1?ssl_certfile={pem["both"]}')
    assert found.ssl_keyfile == str(pem['both'])  # redis-py would show no certificate at all


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ('ssl_cert_reqs=maybe', 'ssl_cert_reqs must be'),
        ('ssl_cert_reqs=CERT_REQUIRE', 'ssl_cert_reqs must be'),
        ('ssl_check_hostname=perhaps', 'ssl_check_hostname must be'),
        ('ssl_cert_reqs=none&ssl_check_hostname=true', 'needs ssl_cert_reqs'),
        ('ssl_ca_certs=/no/such/ca.pem', 'ssl_ca_certs: /no/such/ca.pem cannot be read'),
        (
            'ssl_certfile=/no/such/c.pem&ssl_keyfile=/no/such/k.pem',
            'ssl_certfile: /no/such/c.pem cannot be read',
        ),
        ('ssl_ca_certs=/', 'cannot be read'),
        ('ssl_ca_certs={neither}', 'no certificates'),
        ('ssl_certfile={certificate}&ssl_keyfile={neither}', 'no certificates'),
        ('ssl_certfile={certificate}', 'no certificates'),
        ('ssl_keyfile={key}', 'ssl_keyfile needs ssl_certfile'),
        ('ssl_ca_data=nothing', 'no certificates'),
        ('ssl_ca_path=/etc/ssl/certs', 'not supported: ssl_ca_path'),
    ],
)
def test_tls_option_that_cannot_be_used_is_refused_at_the_start(
    pem: dict[str, Path], options: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        redis_settings(f'rediss://h/1?{options.format_map(pem)}')


def test_tls_option_without_tls_is_refused_and_not_ignored() -> None:
    with pytest.raises(ValueError, match='need rediss://'):
        redis_settings('redis://h/1?ssl_cert_reqs=required')
    assert not redis_settings('redis://h/1?ssl_cert_reqs=none').ssl


@pytest.mark.parametrize(
    ('url', 'hosts'),
    [
        (
            'redis+sentinel://:secret@one:1,two,[::1]:3/2?master=shop',
            [('one', 1), ('two', 26379), ('::1', 3)],
        ),
        ('redis+sentinel://one/2?master_name=shop', [('one', 26379)]),
        (
            'rediss+sentinel://app:secret@one,[::1]/2?service_name=shop',
            [('one', 26379), ('::1', 26379)],
        ),
    ],
)
def test_sentinels_are_read_with_the_name_of_their_master(
    url: str, hosts: list[tuple[str, int]]
) -> None:
    found = redis_settings(url)
    assert parts(found, 'sentinel', 'sentinel_master', 'host', 'database') == (
        True,
        'shop',
        hosts,
        2,
    )
    assert found.ssl is url.startswith('rediss')


def test_passwords_of_sentinels_and_of_their_master_are_two() -> None:
    found = redis_settings(
        'redis+sentinel://a:b%2Fc@h/1?master=m&sentinel_username=d&sentinel_password=e%26f'
    )
    assert parts(found, 'username', 'password', 'sentinel_username', 'sentinel_password') == (
        'a',
        'b/c',
        'd',
        'e&f',
    )
    assert 'e&f' not in repr(found)
    assert 'b/c' not in repr(found)


def test_client_of_sentinels_over_tls_asks_them_and_the_master_over_tls() -> None:
    pool = open_redis(
        redis_settings('rediss+sentinel://:x@one,two/1?master=m'), 'high_priority'
    ).connection_pool
    assert isinstance(pool.make_connection(), SSLConnection)
    for sentinel in pool.sentinel_manager.sentinels:
        assert isinstance(sentinel.connection_pool.make_connection(), SSLConnection)


@pytest.mark.parametrize(
    'url',
    [
        'redis+sentinel://one,two/1',
        'redis+sentinel://one,two/1?master=',
        'redis+sentinel://one,two/shop/1?master=m',
        'redis+sentinel://,two/1?master=m',
        'redis+sentinel://one:x/1?master=m',
        'redis+sentinel://one/1?master=m&master_name=n',
        'redis://one,two/1',
        'redis://one/1?master=m',
        'sentinel://one:26379',
    ],
)
def test_sentinels_that_are_not_all_told_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r'.'):
        redis_settings(url)


def test_unix_socket_has_path_database_and_password() -> None:
    found = redis_settings('unix://:secret@/run/redis.sock?db=1')
    assert parts(found, 'unix_socket_path', 'database', 'password') == (
        '/run/redis.sock',
        1,
        'secret',
    )


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
    """Above all, a database that is no number must not become 0, which is the
    application's cache.
    """
    with pytest.raises(ValueError, match=r'.'):
        redis_settings(url)


@pytest.mark.parametrize(
    'url', ['redis://localhost/1?password=hunter2&unknown=1', 'redis://:hun/ter2@localhost/1']
)
def test_refusal_tells_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r'.') as raised:
        redis_settings(url)
    assert 'hun' not in str(raised.value)


@pytest.mark.parametrize(
    ('url', 'kind', 'expected'),
    [
        (
            'redis://mail:secret@localhost:7000/1',
            Connection,
            {'host': 'localhost', 'port': 7000, 'db': 1},
        ),
        (
            'rediss://mail:secret@redis.example.com/1',
            SSLConnection,
            {'host': 'redis.example.com', 'db': 1},
        ),
        (
            'unix://mail:secret@/run/redis.sock?db=1',
            UnixDomainSocketConnection,
            {'path': '/run/redis.sock', 'db': 1},
        ),
    ],
)
def test_client_connects_to_what_the_url_says(
    url: str, kind: type, expected: dict[str, Any]
) -> None:
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
    redis = open_redis(
        settings, 'high_priority', job_serializer=serialize, job_deserializer=deserialize
    )
    assert redis.default_queue_name == 'high_priority'
    assert (redis.job_serializer, redis.job_deserializer) == (serialize, deserialize)


async def test_client_is_opened_without_redis_and_fails_at_the_first_command(
    free_port: int,
) -> None:
    redis = open_redis(redis_settings(f'redis://127.0.0.1:{free_port}/1'), 'arq:queue')
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    await redis.aclose()


async def test_frozen_redis_raises_instead_of_holding_its_caller_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('engine.connection.COMMAND_TIMEOUT_S', 0.05)
    async with ScriptedRelay({'GREETING': STALL}) as frozen:
        redis = open_redis(redis_settings(f'redis://127.0.0.1:{frozen.port}/1'), 'arq:queue')
        with pytest.raises(RedisTimeoutError):
            await redis.ping()
        await redis.aclose()
