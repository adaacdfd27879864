"""Redis: whether it keeps jobs and announces new ones, and no cache beside it empties it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError, ResponseError

from engine.redis_url import redis_settings
from reporting.checks.finding import Finding, error, note, warning
from reporting.servers import Servers, redis_of
from reporting.wording import megabytes

OLDEST_VERSION = (6, 2)  # ZMSCORE, LMOVE
FULL_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What Redis says of itself. A part that its ACL forbids is empty."""

    info: Mapping[str, Any]
    config: Mapping[str, str] = field(default_factory=dict)
    database: int = 1
    cache_info: Mapping[str, Any] | None = None  # None: it does not answer, or there is none
    cache_database: int = 0
    cache_error: str | None = None  # why it does not


async def check(servers: Servers, cache_url: str | None) -> list[Finding]:
    """Look at the queue's Redis, and at the cache's (REDIS_URL), where there is one."""
    facts = replace(
        await servers.ask_redis(read_redis),
        database=redis_settings(servers.addresses.redis_url).database,
    )
    return list(judge_redis(facts if cache_url is None else await _with_cache(facts, cache_url)))


async def _with_cache(facts: RedisFacts, url: str) -> RedisFacts:
    cache = redis_of(url, 'REDIS_URL')
    info: Mapping[str, Any] | None = None
    failed = None
    try:
        info = await cache.info()
    except ResponseError:
        info = {}
    except (RedisError, OSError) as failure:
        failed = str(failure) or type(failure).__name__
    finally:
        await cache.aclose(close_connection_pool=True)
    database = redis_settings(url).database
    return replace(facts, cache_info=info, cache_database=database, cache_error=failed)


async def read_redis(redis: ArqRedis) -> RedisFacts:
    """Read what may be read."""
    config: dict[str, str] = {}
    info: Mapping[str, Any] = {}
    try:
        info = await redis.info()
    except ResponseError:
        await redis.ping()
    for name in ('notify-keyspace-events', 'save'):
        try:
            config |= await redis.config_get(name)
        except ResponseError:
            break
    return RedisFacts(info, config)


def judge_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Judge everything."""
    if not facts.info:
        yield note(
            'INFO is not permitted: eviction and persistence cannot be checked',
            'allow +info to this user',
        )
    else:
        yield from _judge_role(facts.info)
        yield from _judge_memory(facts)
        yield from _judge_persistence(facts)
    yield from _judge_events(facts)
    yield from _judge_cache(facts)


def _judge_role(info: Mapping[str, Any]) -> Iterator[Finding]:
    version = tuple(
        int(part) for part in str(info.get('redis_version', '99')).split('.')[:2] if part.isdigit()
    )
    if version < OLDEST_VERSION:
        yield error(
            f'Redis {info["redis_version"]} is too old', 'run Redis 6.2 or newer, or Valkey'
        )
    if info.get('role') == 'slave':
        yield error('the queue is a read-only replica', 'point ARQ_REDIS_URL at the primary')


def evicts(info: Mapping[str, Any]) -> bool:
    """Whether this instance deletes keys when it is full: of any database.

    A job's body has a time to live, so it is among them under every policy.
    """
    return str(info.get('maxmemory_policy', 'noeviction')) != 'noeviction'


def _judge_memory(facts: RedisFacts) -> Iterator[Finding]:
    info = facts.info
    limit, used = int(info.get('maxmemory', 0)), int(info.get('used_memory', 0))
    if evicts(info):
        policy = info['maxmemory_policy']
        what = f'maxmemory-policy is {policy}: when memory is full, jobs are deleted'
        if limit:
            yield error(what, 'CONFIG SET maxmemory-policy noeviction, and in redis.conf')
        else:
            yield warning(
                f'{what} (there is no maxmemory now)', 'CONFIG SET maxmemory-policy noeviction'
            )
    elif limit and used > FULL_SHARE * limit:
        yield error(
            f'memory is full: {megabytes(used)} of {megabytes(limit)}; Redis refuses new jobs',
            'raise maxmemory, or see what fills it: `python -m ops queue ls`',
        )


def _judge_persistence(facts: RedisFacts) -> Iterator[Finding]:
    info = facts.info
    lost = 'a restart of Redis loses the waiting jobs; their mail goes out with the next sweep'
    if not info.get('aof_enabled'):
        if facts.config.get('save', 'unknown') == '':
            yield warning(
                f'nothing is written to disk: {lost}', 'set appendonly yes, appendfsync everysec'
            )
        else:
            yield note(
                f'there is no append-only file: {lost}', 'set appendonly yes, appendfsync everysec'
            )
    for name, reported in (
        ('aof_last_write_status', 'append-only file'),
        ('rdb_last_bgsave_status', 'snapshot'),
    ):
        if info.get(name, 'ok') != 'ok':
            yield error(
                f'the last {reported} could not be written',
                "see Redis's log: the disk is full, or not its own",
            )


def _judge_events(facts: RedisFacts) -> Iterator[Finding]:
    flags = facts.config.get('notify-keyspace-events')
    remedy = 'CONFIG SET notify-keyspace-events Kz, and in redis.conf'
    if flags is None:
        yield note(
            'CONFIG is not permitted: whether Redis tells of new jobs cannot be checked',
            'allow +config|get',
        )
    elif 'K' not in flags or not ('z' in flags or 'A' in flags):
        yield warning(
            'keyspace notifications are off: workers ask for jobs every WORKER_POLL_DELAY_S', remedy
        )


def _judge_cache(facts: RedisFacts) -> Iterator[Finding]:
    if facts.cache_error is not None:
        yield warning(
            f'the cache (REDIS_URL) does not answer: {facts.cache_error}',
            'start it, or correct REDIS_URL',
        )
        return
    run_id = facts.info.get('run_id')
    if run_id is None or (facts.cache_info or {}).get('run_id') != run_id:
        return
    if facts.database == facts.cache_database:
        yield error(
            f'queue and cache share database {facts.database}: '
            'FLUSHDB of the cache empties the queue',
            'give the queue a database of its own, or better an instance',
        )
    elif evicts(facts.info):
        yield error(
            'queue and cache share an instance that evicts: '
            'the cache pushes jobs out, whatever the database number',
            'give the queue an instance of its own, with noeviction',
        )
    elif int(facts.info.get('maxmemory', 0)):
        yield warning(
            'queue and cache share an instance with a maxmemory: '
            'when the cache has filled it, no job can be queued',
            'give the queue an instance of its own',
        )
