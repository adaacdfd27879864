"""The ingress among what is operated: its record, status, page, metrics and doctor."""

import asyncio
import contextlib
import json
import socket
import time
from datetime import UTC, datetime

import pytest

from fleet import registrar
from fleet.ingresses import INGRESSES, read_ingresses
from fleet.registrar import FORGET_AFTER_S
from ingress.report import IngressReport
from reporting.checks.ingress import ask_as_stranger
from reporting.problems import Level
from reporting.servers import ServerAddresses, Servers
from tests.conftest import wait_until
from tests.services.ingress_desk import MESSAGE, open_ingress
from tests.services.ops_desk import closed_port, rendered, run
from tests.services.test_one_judge import look_at_page
from tests.services.test_ops_status import register

NAME = 'mail.example.com:2525'
RECORD = {
    'ingress': NAME, 'place': '127.0.0.1:1', 'started_at': '2026-01-01T00:00:00+00:00',
    'version': '1', 'outcomes': {'accepted': 3, 'not-stored': 1}, 'connections': 2,
    'max_connections': 1000, 'rss_bytes': 64 * 2**20,
}  # fmt: skip


async def write(redis, *, seen_ago_s=0.0, is_gone=False, **changed):
    """A record as an ingress writes it."""
    if not is_gone:
        await redis.set(INGRESSES.prefix + NAME, json.dumps(RECORD | changed), px=15_000)
    await redis.zadd(INGRESSES.names_key, {NAME: time.time() - seen_ago_s})


@contextlib.asynccontextmanager
async def reported(desk, database, redis, place=None):
    """Keep the record of a desk's ingress."""
    servers = Servers(ServerAddresses(database.dsn, ''))
    report = IngressReport(desk.door, desk.listener, place or f'127.0.0.1:{desk.port}', '1.2.3')
    task = asyncio.create_task(report.keep(redis, servers))
    try:
        await wait_until(lambda: read_ingresses(redis))
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await servers.close()


async def test_ingress_tells_what_it_did_until_it_is_stopped(database, pool, redis, monkeypatch):
    monkeypatch.setattr(registrar, 'REGISTER_EVERY_S', 0.05)
    async with open_ingress(database.dsn) as desk, reported(desk, database, redis):
        client = await desk.connect()
        await client.begins()
        await client.says(MESSAGE + b'.\r\n')
        await client.begins(b'mallory@example.org')
        await client.says(MESSAGE + b'.\r\n')

        async def told():
            (record,) = await read_ingresses(redis)
            return record if len(record.outcomes) == 2 and record.database else None

        record = await wait_until(told)
        assert record.ingress == f'{socket.gethostname()}:{desk.port}'
        assert record.outcomes == {'accepted': 1, 'sender-refused': 1}
        assert (record.accepted_bytes, record.held_bytes) == (len(MESSAGE), 0)
        assert (record.connections, record.max_connections, record.version) == (1, 1000, '1.2.3')
        assert 0 < record.reply_s['0.5'] <= record.reply_s['0.99']
        assert (record.gone_s, record.certificate_expires_at) == (None, 0)
    assert await read_ingresses(redis) == []
    assert await redis.keys('mail:ingress*') == []


async def test_one_that_ended_without_a_goodbye_is_gone_for_a_day_unless_it_comes_back(redis):
    await write(redis, seen_ago_s=300, is_gone=True)
    (record,) = await read_ingresses(redis)
    assert record.ingress == NAME
    assert 299 < record.gone_s < 330
    await write(redis)
    assert [record.gone_s for record in await read_ingresses(redis)] == [None]
    await redis.delete(INGRESSES.prefix + NAME)
    await write(redis, seen_ago_s=FORGET_AFTER_S + 1, is_gone=True)
    assert await read_ingresses(redis) == []


@pytest.mark.parametrize(
    ('other', 'started_ago_s', 'is_told'),
    [('pod-b:2525', 100, False), ('pod-b:2525', 400, True), ('pod-b:2526', 100, True)],
)
async def test_one_in_whose_place_another_was_started_is_not_missed(
    redis, other, started_ago_s, is_told
):
    await write(redis, seen_ago_s=300, is_gone=True)
    started_at = datetime.fromtimestamp(time.time() - started_ago_s, UTC).isoformat()
    record = json.dumps(RECORD | {'ingress': other, 'started_at': started_at})
    await redis.set(INGRESSES.prefix + other, record, px=15_000)
    await redis.zadd(INGRESSES.names_key, {other: time.time()})
    told = {record.ingress: record.gone_s is not None for record in await read_ingresses(redis)}
    assert told == ({NAME: True, other: False} if is_told else {other: False})


@pytest.mark.parametrize(
    'strange',
    [b'\xff{', b'[]', b'{"ingress": 5}', b'{"ingress": "\\ud800"}',
     b'{"ingress": "x", "outcomes": [], "gone_s": NaN}'],
)  # fmt: skip
async def test_record_that_something_else_wrote_stops_nobody(redis, strange, env):
    await write(redis)
    await redis.set(INGRESSES.prefix + 'x', strange, px=15_000)
    await redis.hset(INGRESSES.prefix + 'hash', 'no', 'record')
    await redis.zadd(INGRESSES.names_key, dict.fromkeys(('x', 'hash', b'\xff', 'l' * 600), 9e9))
    given = await run(env, 'status', '-t', '0.1')
    assert NAME in {i['ingress'] for i in given.document['ingresses']}
    assert rendered('status', given)


@pytest.mark.parametrize(
    ('changed', 'kinds', 'level'),
    [
        ({}, set(), Level.OK),
        ({'is_gone': True, 'seen_ago_s': 60.0}, {'ingress_gone'}, Level.ACT),
        ({'connections': 1000}, {'ingress_full'}, Level.LOOK),
        ({'certificate_expires_at': time.time() + 20 * 86400}, {'ingress_certificate'}, Level.LOOK),
        ({'certificate_expires_at': time.time() - 60}, {'ingress_certificate_ends'}, Level.ACT),
        ({'database': 'aaaaaaaa.bbbbbbbb', 'connections': 1000}, set(), Level.OK),
    ],
)
async def test_status_page_and_metrics_find_the_same(env, redis, changed, kinds, level):
    await register(redis)
    await write(redis, **changed)
    given = await run(env, 'status', '-t', '0.1')
    assert ({problem.kind for problem in given.problems}, given.document['level']) == (kinds, level)
    assert NAME in rendered('status', given)
    page, status, metrics = await look_at_page(env)
    assert NAME in page
    assert {problem['kind'] for problem in json.loads(status)['troubles']} == kinds
    up = 0.0 if changed.get('is_gone') else 1.0
    assert f'email_ingress_up{{ingress="{NAME}",version="{"1" if up else ""}"}} {up}' in metrics
    accepted = f'email_ingress_replies_total{{ingress="{NAME}",outcome="accepted"}} 3.0'
    assert (accepted in metrics) == bool(up)
    checked = await run(env, 'doctor', 'ingress')
    found = {row['what'] for row in checked.document['findings']}
    assert {problem.what[:60] for problem in given.problems} <= {what[:60] for what in found}


async def test_doctor_comes_in_as_a_stranger(env, database, redis):
    async with open_ingress(database.dsn) as desk:
        place = f'127.0.0.1:{desk.port}'
        async with reported(desk, database, redis):
            assert (await run(env, 'doctor', 'ingress')).document['findings'] == []
        # The same, at an address that others reach.
        async with reported(desk, database, redis, f'0.0.0.0:{desk.port}'):
            given = await run(env, 'doctor', 'ingress')
            whats = [row['what'] for row in given.document['findings']]
            assert any('takes mail from everybody' in what for what in whats)
            assert any('offers no STARTTLS' in what for what in whats)
        assert (await ask_as_stranger(place)).mail_code == 250
        async with reported(desk, database, redis, f'127.0.0.1:{closed_port()}'):
            (row,) = (await run(env, 'doctor', 'ingress')).document['findings']
            assert (row['severity'], 'does not answer' in row['what']) == ('error', True)
