"""The servers of a running stack: passwords, settings, and what the chaos harness does to them."""

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import asyncpg
import psutil
import pymongo
import pytest
import redis

from dev.server import Server
from dev.stack import Stack

DEADLINE_S = 20.0
SILENCE_S = 0.3  # how long a server that is frozen is listened to


@pytest.fixture(scope='module')
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


async def connect(env: dict[str, Any], **changed: Any) -> asyncpg.Connection:
    given = {
        'host': env['DB_HOST'],
        'port': int(env['DB_PORT']),
        'user': env['DB_USER'],
        'password': env['DB_PASSWORD'],
        'database': env['DB_NAME'],
    }
    return await asyncpg.connect(**given | changed)


async def fetchval(env: dict[str, Any], sql: str) -> Any:
    connection = await connect(env)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_postgres_takes_its_password_only(stack: Stack) -> None:
    assert await fetchval(stack.env, "SELECT current_setting('fsync')") == 'on'
    assert (
        await fetchval(
            stack.env, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mail'"
        )
        == 'mail'
    )
    for user in ('mail', 'postgres'):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connect(stack.env, user=user, password='wrong')


async def test_postgres_role_may_copy_a_template(stack: Stack) -> None:
    connection = await connect(stack.env)
    await connection.execute('CREATE DATABASE copy_of_mail TEMPLATE template0')
    await connection.execute('DROP DATABASE copy_of_mail')
    await connection.close()


def test_valkey_takes_its_password_only_and_is_set_up_as_a_queue(stack: Stack) -> None:
    with redis.Redis.from_url(stack.env['ARQ_REDIS_URL'], decode_responses=True) as client:
        settings = client.config_get(
            'appendonly', 'appendfsync', 'maxmemory-policy', 'databases', 'bind'
        )
    assert settings == {
        'appendonly': 'yes',
        'appendfsync': 'everysec',
        'maxmemory-policy': 'noeviction',
        'databases': '16',
        'bind': '127.0.0.1',
    }
    with (
        redis.Redis(port=stack.valkey.port, password='wrong') as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    with redis.Redis(port=stack.valkey.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_mongo_is_a_primary_that_takes_writes(stack: Stack) -> None:
    with pymongo.MongoClient[dict[str, Any]](stack.env['MONGODB_URL']) as client:
        assert client.admin.command('hello')['isWritablePrimary']
        collection = client[stack.env['MONGODB_DATABASE']]['things']
        collection.insert_one({'_id': 1, 'data': b'\0' * 100_000})
        assert len(collection.find_one({'_id': 1})['data']) == 100_000


@pytest.mark.parametrize('prefix', ['SMTP', 'SMTP_BACKUP'])
def test_smtp_takes_its_password_only(stack: Stack, prefix: str) -> None:
    env = stack.env
    with smtplib.SMTP(
        env[f'{prefix}_HOST'], int(env[f'{prefix}_PORT']), timeout=DEADLINE_S
    ) as client:
        client.starttls(context=ssl.create_default_context(cafile=env['SMTP_CA_FILE']))
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(env[f'{prefix}_USER'], 'wrong')
        client.login(env[f'{prefix}_USER'], env[f'{prefix}_PASSWORD'])


def test_servers_listen_on_loopback_only(stack: Stack) -> None:
    for server in stack.servers:
        listening = [
            connection.laddr
            for process in [psutil.Process(server.pid)]
            for connection in process.net_connections(kind='inet')
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {address.ip for address in listening} == {'127.0.0.1'}


def exchange(stack: Stack, server: Server, within_s: float = DEADLINE_S) -> None:
    """One exchange with the server; raises when it does not answer within so many seconds."""
    if server is stack.postgres:
        asyncio.run(asyncio.wait_for(fetchval(stack.env, 'SELECT 1'), within_s))
    elif server is stack.valkey:
        with redis.Redis.from_url(stack.env['REDIS_URL'], socket_timeout=within_s) as client:
            client.ping()
    elif server is stack.mongo:
        options = dict.fromkeys(
            ('serverSelectionTimeoutMS', 'socketTimeoutMS', 'connectTimeoutMS'),
            int(1000 * within_s),
        )
        with pymongo.MongoClient[dict[str, Any]](stack.env['MONGODB_URL'], **options) as client:
            client.admin.command('ping')
    else:
        with socket.create_connection(('127.0.0.1', server.port), within_s) as connection:
            assert connection.recv(3) == b'220'


@pytest.mark.parametrize('name', ['postgres', 'valkey', 'mongo', 'inbox'])
def test_server_can_be_frozen_killed_and_started_again_on_its_port(stack: Stack, name: str) -> None:
    server: Server = getattr(stack, name)
    env, first_pid = stack.env, server.pid
    server.freeze()
    with pytest.raises((TimeoutError, OSError, redis.RedisError, pymongo.errors.PyMongoError)):
        exchange(stack, server, SILENCE_S)
    server.thaw()
    exchange(stack, server)
    server.kill()
    assert not server.is_running
    with pytest.raises((OSError, redis.RedisError, pymongo.errors.PyMongoError)):
        exchange(stack, server, SILENCE_S)
    server.start()
    exchange(stack, server)
    assert server.pid != first_pid
    assert stack.env == env


async def test_two_stacks_live_side_by_side(stack: Stack) -> None:
    async with Stack() as other:
        ports = [server.port for server in [*stack.servers, *other.servers]]
        assert len(set(ports)) == len(ports)
        assert await fetchval(other.env, 'SELECT 1') == 1
    assert await fetchval(stack.env, 'SELECT 1') == 1
