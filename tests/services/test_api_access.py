"""Tokens of the API on a real PostgreSQL: who is let in, and who is not."""

import json
import time
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI

from actions import known_tokens
from actions.safety import RequestError
from actions.tokens import PREFIX, ApiScope, create_token, new_token, revoke_token_named
from reporting.servers import ServerAddresses, Servers
from tests.conftest import DEADLINE_S, wait_until
from tests.services.api_desk import TESTER, open_desk
from tests.services.gate import Gate, Way
from tests.services.ops_desk import ops, run
from web.api import access
from web.api.access import require
from web.api.application import add_api


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


def with_probe(api):
    """An application with one path, for who may read."""
    app = FastAPI()

    @app.get('/api/probe')
    async def probe(principal: Annotated[access.Principal, Depends(require(ApiScope.READ))]):
        return {'name': principal.name, 'organization_id': principal.organization_id}

    add_api(app, api)
    return app


async def ask(desk, token=None, *, scheme='Bearer', address='192.0.2.1'):
    transport = httpx.ASGITransport(with_probe(desk.api), client=(address, 1))
    headers = {'Authorization': f'{scheme} {token}'.encode('latin-1')} if token is not None else {}
    async with httpx.AsyncClient(transport=transport, base_url='http://localhost') as client:
        return await client.get('/api/probe', headers=headers)


async def test_token_is_let_in_with_its_name_and_organisation(desk):
    token = await desk.token('billing', [ApiScope.READ], organization_id='7')
    answer = await ask(desk, token)
    assert (answer.status_code, answer.json()) == (
        200,
        {'name': 'billing', 'organization_id': '7'},
    )


async def test_token_of_another_scope_is_told_which_it_has(desk):
    answer = await ask(desk, await desk.token('shop', [ApiScope.SEND]))
    assert answer.status_code == 403
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.json()['type'] == 'urn:arq-mail-worker:problem:out-of-scope'
    assert 'is for send, not read' in answer.json()['detail']


@pytest.mark.parametrize('scheme', ['Basic', 'bearer2', ''])
async def test_token_in_another_scheme_is_refused(desk, scheme):
    assert (await ask(desk, await desk.token(), scheme=scheme)).status_code == 401


@pytest.mark.parametrize(
    'token',
    ['', 'x', PREFIX, PREFIX + '0' * 72, 'ä' * 80, 'amw_truncated', new_token() + '0'],
    ids=range(7),
)
async def test_what_is_no_token_is_refused_without_asking_postgresql(desk, token, monkeypatch):
    monkeypatch.setattr(known_tokens, 'read_live_tokens', None)
    answer = await ask(desk, token)
    assert answer.status_code == 401
    assert answer.json()['remedy'] == 'make one: python -m ops token create NAME --scope read'
    assert answer.headers['www-authenticate'].startswith('Bearer')


async def test_without_a_token_the_header_is_named(desk):
    answer = await ask(desk)
    assert (answer.status_code, answer.json()['type'].rpartition(':')[2]) == (401, 'no-token')


async def test_new_token_is_known_at_once_and_a_revoked_one_refused_within_two_seconds(desk):
    assert (await ask(desk, await desk.token('first'))).status_code == 200
    token = await desk.token('second')
    assert (await ask(desk, token)).status_code == 200
    await revoke_token_named(desk.api.servers, 'second', by=TESTER)
    revoked_at = time.monotonic()

    async def is_refused():
        return (await ask(desk, token)).status_code == 401

    await wait_until(is_refused, known_tokens.FRESH_S + 1)
    assert time.monotonic() - revoked_at < known_tokens.FRESH_S + 0.5


async def test_expired_token_is_refused(desk, pool):
    token = await desk.token('short', expires_in_s=3600)
    assert (await ask(desk, token)).status_code == 200
    await pool.execute("UPDATE mail_api_tokens SET expires_at = now() - interval '1 second'")

    async def is_refused():
        return (await ask(desk, token)).status_code == 401

    await wait_until(is_refused)


async def test_token_in_memory_expires_without_asking_postgresql(desk, monkeypatch):
    token = await desk.token('short', expires_in_s=0.5)
    assert (await ask(desk, token)).status_code == 200
    monkeypatch.setattr(known_tokens, 'RENEW_S', 3600)
    monkeypatch.setattr(known_tokens, 'FRESH_S', 3600)

    async def is_refused():
        return (await ask(desk, token)).status_code == 401

    await wait_until(is_refused)


async def test_address_that_was_refused_often_waits_and_a_good_token_from_there_does_not(desk):
    good = await desk.token()
    assert (await ask(desk, good)).status_code == 200
    for _ in range(access.MOST_REFUSALS):
        assert (await ask(desk, new_token()[:-1])).status_code == 401
    answer = await ask(desk, new_token())
    assert (answer.status_code, answer.json()['type'].rpartition(':')[2]) == (
        429,
        'too-many-refusals',
    )
    assert 0 < int(answer.headers['retry-after']) <= 60
    assert (await ask(desk, good)).status_code == 200
    assert (await ask(desk, address='192.0.2.2')).status_code == 401


def test_hosts_of_ipv6_count_by_their_network_and_mapped_ones_as_ipv4():
    assert access.group_of('2001:db8:1:2:3:4:5:6') == access.group_of('2001:db8:1:2::9')
    assert access.group_of('2001:db8:1:2::1') != access.group_of('2001:db8:1:3::1')
    assert access.group_of('::ffff:192.0.2.1') == '192.0.2.1'
    assert access.group_of('testclient') == 'testclient'


def test_addresses_that_are_remembered_are_few(monkeypatch):
    monkeypatch.setattr(access, 'MOST_ADDRESSES', 10)
    refusals = access.Refusals()
    for n in range(100):
        refusals.count(str(n))
    assert len(refusals._counts) == 10


async def test_token_goes_on_while_postgresql_is_away_and_not_for_ever(env, desk, monkeypatch):
    token = await desk.token()
    async with (
        Gate(env['DATABASE_URL']) as gate,
        open_desk(env, postgres_dsn=gate.url, deadline_s=2) as guarded,
    ):
        assert (await ask(guarded, token)).status_code == 200
        gate.turn(Way.AWAY)
        monkeypatch.setattr(known_tokens, 'FRESH_S', 0)
        assert (await ask(guarded, token)).status_code == 200
        monkeypatch.setattr(known_tokens, 'STALE_S', 0)
        answer = await ask(guarded, token)
        assert (answer.status_code, answer.headers['content-type']) == (
            503,
            'application/problem+json',
        )
        assert 'PostgreSQL' in answer.json()['detail']
        gate.turn(Way.OPEN)
        assert (await ask(guarded, token)).status_code == 200


async def test_last_use_is_noted_once_a_minute_and_at_the_end(desk, pool, env):
    token = await desk.token()
    for _ in range(3):
        assert (await ask(desk, token)).status_code == 200
    assert await pool.fetchval('SELECT last_used_at FROM mail_api_tokens') is None
    await desk.api.access.tokens.close()
    assert await pool.fetchval('SELECT last_used_at > created_at FROM mail_api_tokens')


async def test_database_knows_no_token_but_its_hash(desk, pool):
    token = await desk.token()
    stored = await pool.fetchrow('SELECT t::text FROM mail_api_tokens t')
    assert token not in stored[0]
    assert token.removeprefix(PREFIX)[:16] not in stored[0]


async def test_name_is_taken_until_its_token_is_revoked_and_both_are_in_the_audit(desk, pool):
    await desk.token('billing')
    with pytest.raises(RequestError, match='there is a token'):
        await desk.token('billing')
    await revoke_token_named(desk.api.servers, 'billing', by=TESTER)
    with pytest.raises(RequestError, match='no token'):
        await revoke_token_named(desk.api.servers, 'billing', by=TESTER)
    await desk.token('billing')
    audit = await pool.fetch('SELECT * FROM mail_audit ORDER BY id')
    assert [(a['action'], a['actor'], a['origin'], a['problem']) for a in audit] == [
        ('token.create', 'anna', 'tests', None),
        ('token.create', 'anna', 'tests', "there is a token 'billing'"),
        ('token.revoke', 'anna', 'tests', None),
        ('token.revoke', 'anna', 'tests', "there is no token 'billing' in use"),
        ('token.create', 'anna', 'tests', None),
    ]
    assert all(a['finished_at'] for a in audit)


async def test_command_prints_the_token_once_and_it_works(env, desk):
    done = await ops(
        env, 'token', 'create', 'shop', '--scope', 'send,read', '--organization', '7',
        '--expires', '90d', '--json',
    )  # fmt: skip
    assert done.status == 0, done.err
    token = json.loads(done.out)['token']
    assert (await ask(desk, token)).json() == {'name': 'shop', 'organization_id': '7'}
    listed = await ops(env, 'token', 'ls', '--json')
    assert token not in listed.out
    (shown,) = listed.document['tokens']
    assert (shown['name'], shown['scopes']) == ('shop', ['send', 'read'])
    again = await run(env, 'token', 'create', 'shop', '--scope', 'read')
    assert (again.exit_status, 'there is a token' in again.problems[0].line) == (2, True)
    audit = await run(env, 'audit', 'ls')
    assert [entry['action'] for entry in audit.document['changes']] == ['token.create'] * 2


@pytest.mark.parametrize(
    'words',
    [
        ('create', 'a b', '--scope', 'read'), ('create', 'x', '--scope', 'root'),
        ('create', 'x', '--scope', ''), ('create', 'x', '--scope', 'read', '--expires', 'never'),
        ('create', 'x', '--scope', 'read', '--organization', ''), ('create', 'x' * 101),
    ],
)  # fmt: skip
async def test_command_refuses_what_makes_no_sense(env, words):
    with pytest.raises(SystemExit, match='2'):
        await run(env, 'token', *words)


async def test_tokens_are_no_more_than_a_web_server_holds(env, pool, monkeypatch):
    await pool.execute(
        'INSERT INTO mail_api_tokens (name, token_hash, scopes, created_by) '
        "SELECT n, sha256(n::text::bytea), '{read}', 'anna' FROM generate_series(1, 1000) AS n"
    )
    servers = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    try:
        with pytest.raises(Exception, match='1000 tokens in use'):
            await create_token(servers, 'one more', [ApiScope.READ], by=TESTER)
    finally:
        await servers.close()


def test_deadline_of_tests_is_longer_than_a_token_is_fresh():
    assert DEADLINE_S > known_tokens.FRESH_S
