"""Where something was measured: the facts that change the numbers."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import redis

from bench import environments
from dev.stack import Stack

SYNCS = 100
SYNC_BYTES = 8192  # a page of PostgreSQL


def describe_machine(directory: Path) -> list[str]:
    """Return one line a fact.

    Args:
        directory: On the file system that holds PostgreSQL's data.
    """
    memory_gib = psutil.virtual_memory().total / 2**30
    return [
        f'{os.cpu_count()} cores of {_cpu_model()}, {memory_gib:.0f} GiB of memory',
        f'{platform.system()} {platform.release()}, {_distribution()}',
        (
            f"PostgreSQL's data on {_file_system(directory)}: a page written and synced in "
            f'{_sync_ms(directory):.2f} ms'
        ),
    ]


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return models[0] if models else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()['PRETTY_NAME']
    except (OSError, KeyError):
        return platform.platform()


def _file_system(directory: Path) -> str:
    path = str(directory.resolve())
    above = [
        p
        for p in psutil.disk_partitions(all=True)
        if f'{path}/'.startswith(f'{p.mountpoint.rstrip("/")}/')
    ]
    return (
        max(above, key=lambda partition: len(partition.mountpoint)).fstype
        if above
        else 'an unknown file system'
    )


def _sync_ms(directory: Path) -> float:
    """Return the median time of a write and fsync of one page.

    It is the floor under every commit.
    """
    took_ms = []
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(SYNCS * SYNC_BYTES)
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(os.urandom(SYNC_BYTES))
            file.flush()
            os.fsync(file.fileno())
            took_ms.append((time.perf_counter() - started) * 1000)
    return statistics.median(took_ms)


PEERS = (
    'celery',
    'sqlalchemy',
    'psycopg',
    'kombu',
    'redis',
    'dramatiq',
    'taskiq-redis',
    'saq',
    'streaq',
)


async def describe_versions(stack: Stack, relays: Sequence[str]) -> list[str]:
    """Return one line per group of programs.

    Args:
        relays: What the sinks say they are.
    """
    conn = await asyncpg.connect(stack.postgres.url)
    try:
        settings = [
            f'{name}={await conn.fetchval("SELECT current_setting($1)", name)}'
            for name in ('fsync', 'synchronous_commit', 'shared_buffers')
        ]
        postgres = await conn.fetchval("SELECT current_setting('server_version')")
    finally:
        await conn.close()
    ours = ', '.join(
        f'{name} {version(name)}' for name in ('arq', 'asyncpg', 'aiosmtplib', 'redis', 'uvloop')
    )
    lines = [
        (
            f'PostgreSQL {postgres} ({", ".join(settings)}), Valkey '
            f'{_valkey_version(stack)}, {", ".join(relays)}'
        ),
        f'this worker: Python {platform.python_version()}, {ours}',
    ]
    if environments.PEERS.is_installed():
        pairs = zip(PEERS, environments.PEERS.versions(*PEERS), strict=True)
        lines.append(f'peers: {", ".join(" ".join(pair) for pair in pairs)}')
    return lines


def busy_fraction(window_s: float) -> float:
    """Return how much of the machine others use now; 0.1 is a tenth of all cores."""
    return psutil.cpu_percent(window_s) / 100


def commit() -> str:
    """Return which version of the project this is, as far as git knows."""
    try:
        command = [
            'git',
            '-C',
            str(Path(__file__).parent),
            'describe',
            '--always',
            '--dirty=, with changes',
        ]
        described = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return described


def _valkey_version(stack: Stack) -> str:
    client = redis.Redis.from_url(stack.valkey.url(0))
    try:
        info: Any = client.info('server')
    finally:
        client.close()
    return str(info.get('valkey_version') or info['redis_version'])
