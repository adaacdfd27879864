"""What runs here and there, in versions: for a report of a fault."""

import asyncio
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import asyncpg
from arq.connections import ArqRedis

from reporting.problems import Document, Problem
from reporting.servers import Servers, answer_or_note

if TYPE_CHECKING:  # the driver is imported by whoever has a MongoDB
    from db.mongo import Mongo

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


async def read_software(
    servers: Servers, program: Mapping[str, str], problems: list[Problem]
) -> Document:
    """Return the versions of this program, its libraries and the servers.

    A server that does not answer has None.

    Args:
        program: What is known of this program itself, such as its version.
    """
    asked = {
        'postgresql': servers.ask_postgres(_postgres),
        'redis': servers.ask_redis(_redis),
    }
    if servers.has_mongo:
        asked['mongodb'] = servers.ask_mongo(_mongo)
    answers = await asyncio.gather(*(answer_or_note(ask, problems) for ask in asked.values()))
    return {
        'software': {
            **program,
            'python': sys.version.split()[0],
            'platform': platform.platform(),
            **{name: _version(name) for name in LIBRARIES},
        },
        'servers': dict(zip(asked, answers, strict=True)),
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


async def _postgres(pool: asyncpg.Pool) -> str:
    return str(await pool.fetchval('SHOW server_version'))


async def _redis(redis: ArqRedis) -> str:
    info = await redis.info('server')
    version = info.get('valkey_version') or info.get('redis_version')
    return f'{info.get("server_name", "redis")} {version}'


async def _mongo(mongo: 'Mongo') -> str:
    return str((await mongo.client.server_info())['version'])
