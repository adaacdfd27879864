"""A Redis URL in arq's terms, with TLS and sentinels.

What is not understood is refused, never ignored: an option that is dropped may be the one that
checks the server's certificate.
"""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote

from arq.connections import RedisSettings
from redis.asyncio.connection import RedisSSLContext, parse_url
from redis.exceptions import RedisError

from engine.urls import HOST, PERCENT_ENCODE, read_url

CONNECT_TIMEOUT_S = 5
SENTINEL_PORT = 26379
SCHEMES = ('redis', 'rediss', 'unix', 'redis+sentinel', 'rediss+sentinel')
MASTER_NAMES = ('master', 'master_name', 'service_name')
TLS_OPTIONS = (
    'ssl_keyfile',
    'ssl_certfile',
    'ssl_cert_reqs',
    'ssl_ca_certs',
    'ssl_ca_data',
    'ssl_check_hostname',
)
# Celery's spellings, redis-py's and the ssl module's.
CERT_REQS = {
    'required': 'required',
    'optional': 'optional',
    'none': 'none',
    '2': 'required',
    '1': 'optional',
    '0': 'none',
}
TRUTH = {
    'true': True,
    '1': True,
    'yes': True,
    'on': True,
    'false': False,
    '0': False,
    'no': False,
    'off': False,
}


@dataclass(repr=False)
class RedisAddress(RedisSettings):
    """arq's settings, and what sentinels want of those who ask them."""

    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        return f'RedisAddress({self.host!r})'  # no password


def redis_settings(url: str) -> RedisAddress:
    """Translate a Redis URL for arq.

    arq's own from_dsn does not percent-decode passwords and drops TLS options.

    Args:
        url: redis://[user:password@]host[:port]/database, rediss:// for TLS, unix://path?db=1, or,
            with sentinels,
            redis+sentinel://[user:password@]host[:port],host[:port]/database?master=name;
            rediss+sentinel:// for TLS.
    Raises:
        ValueError: the URL has another scheme, is ambiguous, or names something that cannot be
            used; the message has no piece of a password.
    """
    parts = read_url(url, *SCHEMES)
    scheme, _, sentinel = parts.scheme.partition('+')
    options = _options_of(parts, scheme)
    tls: dict[str, Any] = {}
    if scheme == 'rediss':
        tls = read_tls(options, parse_qs(parts.query))
    elif options.get('ssl_cert_reqs', '').lower().removeprefix('cert_') == 'none':
        # Without TLS nothing is checked, as this option wants. Any other asks for a check that
        # there will not be, and is refused below.
        del options['ssl_cert_reqs']
    settings = RedisAddress(
        host=options.pop('host', 'localhost'),
        port=int(options.pop('port', 6379)),
        unix_socket_path=options.pop('path', None),
        database=int(options.pop('db', 0)),
        username=options.pop('username', None),
        password=options.pop('password', None),
        ssl=scheme == 'rediss',
        conn_timeout=CONNECT_TIMEOUT_S,
        max_connections=options.pop('max_connections', None),
        **tls,
    )
    hosts = parts.netloc.rpartition('@')[2]
    if sentinel:
        ask_sentinels(settings, hosts, options)
    elif ',' in hosts:
        raise ValueError('several hosts need redis+sentinel:// or rediss+sentinel://')
    _refuse_others(options)
    return settings


def _options_of(parts: SplitResult, scheme: str) -> dict[str, Any]:
    """Return what redis-py reads out of a URL, with the first of its hosts."""
    database = parts.path.strip('/')
    # redis-py takes a name for database 0.
    if scheme != 'unix' and database and not database.isdecimal():
        raise ValueError('the database of a Redis URL must be a number')
    try:
        # Several hosts are more than redis-py can read.
        one = parts._replace(scheme=scheme, netloc=one_host(parts.netloc))
        options: dict[str, Any] = dict(parse_url(one.geturl()))
    except ValueError:
        raise ValueError(f'not a Redis URL; {PERCENT_ENCODE}') from None
    options.pop('connection_class', None)
    return options


def _refuse_others(options: dict[str, Any]) -> None:
    if not options:
        return
    names = ', '.join(sorted(options))
    needs_tls = ''
    if any(name in TLS_OPTIONS for name in options):
        needs_tls = ': ssl_ options need rediss://'
    raise ValueError(f'the Redis URL has options that are not supported: {names}{needs_tls}')


def one_host(netloc: str) -> str:
    """Return the part of a URL between // and / with the first of its hosts."""
    userinfo, at, hosts = netloc.rpartition('@')
    return f'{userinfo}{at}{hosts.partition(",")[0]}'


def ask_sentinels(settings: RedisAddress, hosts: str, options: dict[str, Any]) -> None:
    """Have the hosts stand for sentinels, and take what is theirs out of the options.

    Raises:
        ValueError: the name of the master is missing.
    """
    names = [options.pop(name) for name in MASTER_NAMES if name in options]
    if len(names) != 1 or not names[0]:
        raise ValueError('sentinels need the name of the master: ?master=mymaster')
    settings.sentinel = True
    settings.sentinel_master = names[0]
    settings.host = [_host_and_port(host) for host in hosts.split(',')]
    settings.sentinel_username = options.pop('sentinel_username', None)
    settings.sentinel_password = options.pop('sentinel_password', None)


def _host_and_port(spec: str) -> tuple[str, int]:
    found = HOST.fullmatch(spec)
    if found is None or not found[1]:
        raise ValueError('a sentinel has no host')
    return unquote(found[1]).strip('[]'), int((found[3] or '').lstrip(':') or SENTINEL_PORT)


def read_tls(options: dict[str, Any], query: dict[str, list[str]]) -> dict[str, Any]:
    """Take the TLS options out of options, in the spellings people use, and try them.

    Args:
        query: The URL's options as they are written.
    Returns:
        Arguments of RedisSettings.
    Raises:
        ValueError: one of them is not understood, or a file cannot be read.
    """
    tls: dict[str, Any] = {name: options.pop(name) for name in TLS_OPTIONS if name in options}
    wanted = tls.get('ssl_cert_reqs', 'required').lower().removeprefix('ssl.').removeprefix('cert_')
    if wanted not in CERT_REQS:
        raise ValueError('ssl_cert_reqs must be required, optional or none')
    tls['ssl_cert_reqs'] = CERT_REQS[wanted]
    checks = tls['ssl_cert_reqs'] != 'none'
    if 'ssl_check_hostname' in query:
        said = query['ssl_check_hostname'][0].lower()
        if said not in TRUTH:
            raise ValueError('ssl_check_hostname must be true or false')
        if TRUTH[said] and not checks:
            raise ValueError('ssl_check_hostname needs ssl_cert_reqs=required')
        checks = TRUTH[said]
    tls['ssl_check_hostname'] = checks
    if 'ssl_keyfile' in tls and 'ssl_certfile' not in tls:
        raise ValueError('ssl_keyfile needs ssl_certfile')
    # The file may hold the key as well; redis-py leaves out a certificate without a key file.
    if 'ssl_certfile' in tls:
        tls.setdefault('ssl_keyfile', tls['ssl_certfile'])
    try_tls(tls)
    return tls


def try_tls(tls: dict[str, Any]) -> None:
    """Make a context of the options, as redis-py will at each connect.

    Raises:
        ValueError: a file is missing, or is not what it should be.
    """
    for name in ('ssl_ca_certs', 'ssl_certfile', 'ssl_keyfile'):
        if name in tls:
            try:
                with open(tls[name], 'rb'):  # noqa: PTH123 - a name from a URL, read by OpenSSL next
                    pass
            except OSError as error:
                raise ValueError(f'{name}: {tls[name]} cannot be read: {error.strerror}') from None
    try:
        RedisSSLContext(**{name.removeprefix('ssl_'): value for name, value in tls.items()}).get()
    except (OSError, ValueError, RedisError) as error:
        reason = (
            error.reason
            if isinstance(error, ssl.SSLError) and error.reason
            else type(error).__name__
        )
        raise ValueError(
            f'the ssl_ files are no certificates and keys that belong together: {reason}'
        ) from None
