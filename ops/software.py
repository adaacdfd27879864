"""What runs here and there, in versions: for a report of a fault."""

import asyncio
import platform
import sys
from importlib import metadata

import asyncpg
from arq.connections import ArqRedis

from configuration.view import digest, program_version
from db.content import Mongo
from ops.answer import Document, Trouble
from ops.connect import Connections, attempt

LIBRARIES = (
    'arq',
    'redis',
    'hiredis',
    'asyncpg',
    'motor',
    'pymongo',
    'aiosmtplib',
    'uvloop',
    'pydantic',
)


async def read_software(connections: Connections, troubles: list[Trouble]) -> Document:
    """Return the versions of this program, its libraries and the servers; None for a server that does not answer."""
    servers = await asyncio.gather(
        attempt(connections.ask_postgres(_postgres), troubles),
        attempt(connections.ask_redis(_redis), troubles),
        attempt(connections.ask_mongo(_mongo), troubles),
    )
    return {
        'software': {
            'program': program_version(),
            'settings': digest(connections.settings),
            'python': sys.version.split()[0],
            'platform': platform.platform(),
            **{name: _version(name) for name in LIBRARIES},
        },
        'servers': dict(zip(('postgresql', 'redis', 'mongodb'), servers, strict=True)),
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


async def _postgres(pool: asyncpg.Pool) -> str:
    return str(await pool.fetchval('SHOW server_version'))


async def _redis(redis: ArqRedis) -> str:
    told = await redis.info('server')
    version = told.get('valkey_version') or told.get('redis_version')
    return f'{told.get("server_name", "redis")} {version}'


async def _mongo(mongo: Mongo) -> str:
    return str((await mongo.client.server_info())['version'])
