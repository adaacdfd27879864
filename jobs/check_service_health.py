"""Ask every service whether it answers, and write down what it said."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from db.health import ServiceCheck, record_health
from delivery.alerts.alerter import StatesInPostgres
from delivery.runtime import Runtime
from engine.connection import open_redis
from engine.redis_url import redis_settings

log = structlog.get_logger()

CHECK_TIMEOUT_S = 10.0
POSTGRES = 'postgresql'


async def check_service_health(ctx: dict[str, Any]) -> dict[str, Any]:
    """Check PostgreSQL, the queue, cache and MongoDB where there are any, and every relay.

    service_health gets one row for each, and whoever is to be told hears of what is new.

    Returns:
        {'affected': number of services, 'services': {'mongodb': 'up', ...}}.
    """
    runtime: Runtime = ctx['runtime']
    stores = runtime.stores
    checks: dict[str, Callable[[], Awaitable[Any]]] = {
        POSTGRES: lambda: stores.pool.fetchval('SELECT 1'),
        'redis_queue': stores.redis.ping,
    }
    if (cache_url := stores.cache_url) is not None:
        checks['redis_cache'] = lambda: _ping(cache_url)
    if (mongo := stores.mongo) is not None:
        checks['mongodb'] = lambda: mongo.command('ping')
    for relay in runtime.tunables.relays:
        checks[f'smtp_{relay.name}'] = relay.greet
    findings = await asyncio.gather(*(_check(name, check) for name, check in checks.items()))
    for finding in findings:
        if finding.error_message:
            log.error('service.down', service=finding.service_name, error=finding.error_message)
    await record_health(stores.pool, findings)
    if runtime.alerts is not None:
        # Of PostgreSQL somebody tells who also looks while it is away: PostgresWatch.
        errors = {f.service_name: f.error_message for f in findings if f.service_name != POSTGRES}
        await runtime.alerts.services.observe(StatesInPostgres(stores.pool), errors)
    return {'affected': len(findings), 'services': {f.service_name: f.status for f in findings}}


async def _check(name: str, check: Callable[[], Awaitable[Any]]) -> ServiceCheck:
    started = time.monotonic()
    error = None
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except Exception as failure:  # noqa: BLE001 - whatever a client raises, the service did not answer as it should
        error = str(failure) or type(failure).__name__
    return ServiceCheck(
        name, 'down' if error else 'up', round((time.monotonic() - started) * 1000), error
    )


async def _ping(url: str) -> None:
    redis = open_redis(redis_settings(url), 'arq:queue')
    try:
        await redis.ping()
    finally:
        await redis.aclose(close_connection_pool=True)
