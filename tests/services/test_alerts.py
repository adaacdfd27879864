"""Somebody is told of a service that goes down, once, and when it is back: by real channels."""

import asyncio
import email
import json
import os
from collections.abc import AsyncIterator
from dataclasses import astuple
from datetime import timedelta
from email import policy
from typing import Any, Self

import pytest

from delivery.alerts.alerter import Alerter, StatesInPostgres
from delivery.alerts.assemble import AlertRules, Alerts, make_alerter, make_alerts
from delivery.alerts.postgres_watch import PostgresWatch
from delivery.alerts.verdict import Notice, NoticeKind
from delivery.runtime import Runtime
from engine.connection import open_redis
from engine.redis_url import redis_settings
from jobs.check_service_health import check_service_health
from mail.route import Relays
from tests.conftest import wait_until
from tests.services.gate import Gate, Way
from tests.services.ops_desk import closed_port, ops
from tests.unit.scripted_relay import ScriptedRelay

HOUR = timedelta(hours=1)


class Receiver:
    """A web server that keeps what is posted to it."""

    def __init__(self, answer: bytes = b'HTTP/1.1 204 No Content\r\n\r\n') -> None:
        self.answer: bytes | None = answer
        self.posted: list[dict[str, Any]] = []
        self.drips = False  # a byte now and then, without end
        self.left = 0  # clients that went while it did

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, '127.0.0.1', 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f'http://127.0.0.1:{port}/hook'
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
        length = int(head.partition('content-length:')[2].split()[0])
        self.posted.append(json.loads(await reader.readexactly(length)))
        if self.drips:
            await self._drip(reader, writer)
        elif self.answer is None:
            await reader.read()  # says nothing, until the client leaves
        else:
            writer.write(self.answer)
        writer.close()

    async def _drip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.ensure_future(reader.read())
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 60000\r\nX-Slow: ')
        while not gone.done():
            writer.write(b'x')
            await asyncio.sleep(0.05)
        self.left += 1

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(n['kind'], n['subject']) for post in self.posted for n in post['notices']]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


class Told(list[Notice]):
    """A channel that keeps what it is told."""

    name = 'list'
    fails = False

    async def tell(self, notices: Any, source: str) -> None:
        assert source
        if self.fails:
            raise OSError('no way')
        self.extend(notices)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(notice.kind.value, notice.subject) for notice in self]


def alerts_of(runtime: Runtime, **rules: Any) -> Alerts:
    values: Any = astuple(AlertRules(**rules))
    found = make_alerts(values, 'tests', runtime.stores, runtime.tunables)
    assert found is not None
    return found


async def test_relay_that_goes_down_is_told_of_by_mail_over_the_other_and_by_the_webhook(
    runtime: Runtime, ctx: Any, inbox: Any, receiver: Receiver
) -> None:
    runtime.alerts = alerts_of(
        runtime, emails='Ops <ops@example.com>, boss@example.com', webhook_url=receiver.url
    )
    inbox.control.listen('primary', on=False)
    for _ in range(4):
        await check_service_health(ctx)
    [accepted] = inbox.accepted('ops@example.com')
    assert accepted['relay'] == 'backup'
    assert accepted['rcpt_to'] == ['ops@example.com', 'boss@example.com']
    message = email.message_from_bytes(inbox.message(accepted), policy=policy.default)
    assert message['Subject'] == 'E-mail: smtp_primary is down'
    assert message['Auto-Submitted'] == 'auto-generated'
    assert 'smtp_primary is down since 20' in message.get_content()
    assert receiver.told == [('down', 'smtp_primary')]
    assert 'smtp_primary is down' in receiver.posted[0]['text']
    inbox.control.listen('primary', on=True)
    for _ in range(5):
        await check_service_health(ctx)
    assert receiver.told == [('down', 'smtp_primary'), ('up', 'smtp_primary')]
    assert len(inbox.accepted('ops@example.com')) == 2


async def test_several_workers_tell_once_and_one_that_restarts_does_not_repeat_it(
    pool: Any,
) -> None:
    told = Told()
    for number in range(6):  # each check by another worker, which knows nothing
        alerter = Alerter([told], f'worker {number}', HOUR)
        await alerter.observe(StatesInPostgres(pool), {'mongodb': 'gone', 'redis_queue': None})
    assert told.kinds == [('down', 'mongodb')]
    await pool.execute("UPDATE mail_alerts SET told_at = now() - interval '61 minutes'")
    alerter = Alerter([told], 'worker', HOUR)
    for _ in range(3):
        await alerter.observe(StatesInPostgres(pool), {'mongodb': 'gone'})
    assert told.kinds[1:] == [('still down', 'mongodb')]
    for _ in range(6):
        await alerter.observe(StatesInPostgres(pool), {'mongodb': None})
    assert told.kinds[2:] == [('up', 'mongodb')]
    assert await pool.fetchval('SELECT count(*) FROM mail_alerts') == 0, 'nothing is left behind'


async def test_channel_that_fails_or_hangs_costs_neither_the_others_nor_the_duty(
    runtime: Runtime, ctx: Any, inbox: Any, receiver: Receiver, monkeypatch: Any
) -> None:
    monkeypatch.setattr('delivery.alerts.alerter.CHANNEL_TIMEOUT_S', 0.5)
    receiver.answer = None
    runtime.alerts = alerts_of(runtime, emails='ops@example.com', webhook_url=receiver.url)
    inbox.control.listen('primary', on=False)
    for _ in range(2):
        async with asyncio.timeout(9):
            result = await check_service_health(ctx)
    assert result['services']['smtp_primary'] == 'down'
    assert len(inbox.accepted('ops@example.com')) == 1


@pytest.mark.parametrize(
    'answer',
    [
        b'HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n',
        b'garbage\r\n\r\n',
        b'',
    ],
)
async def test_webhook_that_does_not_take_it_is_told_again_at_the_next_check(
    runtime: Runtime, pool: Any, receiver: Receiver, answer: bytes
) -> None:
    good, receiver.answer = receiver.answer, answer
    alerter = alerts_of(runtime, webhook_url=receiver.url).services
    states = StatesInPostgres(pool)
    for _ in range(3):
        assert await alerter.observe(states, {'mongodb': 'gone'}) == []
    receiver.answer = good
    [notice] = await alerter.observe(states, {'mongodb': 'gone'})
    assert notice.kind is NoticeKind.DOWN
    assert await alerter.observe(states, {'mongodb': 'gone'}) == []
    assert receiver.told == [('down', 'mongodb')] * 3


async def test_webhook_that_answers_a_byte_at_a_time_leaves_no_thread_behind_that_others_need(
    runtime: Runtime, pool: Any, receiver: Receiver, monkeypatch: Any
) -> None:
    monkeypatch.setattr('delivery.alerts.alerter.CHANNEL_TIMEOUT_S', 0.3)
    receiver.drips = True
    alerter = alerts_of(runtime, webhook_url=receiver.url).services
    for _ in range(12):
        told = await alerter.observe(StatesInPostgres(pool), {'mongodb': 'gone'}, at_once=True)
        assert told == []
    assert len(receiver.posted) == 12
    async with asyncio.timeout(2):  # as for addresses, large messages, names of relays
        assert await asyncio.to_thread(len, 'free') == 4
    await wait_until(lambda: receiver.left == 12)


async def test_relay_that_says_what_no_table_takes_is_told_of(
    runtime: Runtime, ctx: Any, pool: Any, inbox: Any, receiver: Receiver
) -> None:
    runtime.alerts = alerts_of(runtime, webhook_url=receiver.url)
    async with ScriptedRelay({'GREETING': '554 no\0body here'}) as relay:
        runtime.tunables.relays = Relays([relay.relay()])
        for _ in range(3):
            await check_service_health(ctx)
    assert receiver.told == [('down', 'smtp_primary')]
    said = await pool.fetchval(
        "SELECT error_message FROM service_health WHERE service_name = 'smtp_primary' LIMIT 1"
    )
    assert 'no\N{REPLACEMENT CHARACTER}body' in said


async def test_apprise_tells_its_targets(runtime: Runtime, pool: Any, receiver: Receiver) -> None:
    target = receiver.url.replace('http://', 'json://')
    alerter = alerts_of(runtime, apprise_urls=f'{target} {target}').services
    posted = receiver.posted
    for _ in range(2):
        await alerter.observe(StatesInPostgres(pool), {'mongodb': 'gone'})
    assert [post['title'] for post in posted] == ['E-mail: mongodb is down'] * 2
    assert posted[0]['type'] == 'failure'
    wrong = alerts_of(runtime, apprise_urls='nothing://here').services
    assert await wrong.observe(StatesInPostgres(pool), {'a': 'gone'}, at_once=True) == []


async def test_postgresql_that_goes_is_told_once_by_many_workers_and_so_is_its_return(
    redis: Any,
) -> None:
    told = Told()
    watches = [PostgresWatch(Alerter([told], 'w', HOUR), redis, every_s=0.02) for _ in range(4)]

    async def see(error: str | None, times: int) -> None:
        for _ in range(times):
            await asyncio.gather(*(watch.saw(error) for watch in watches))
            await asyncio.sleep(0.025)

    await see('connection refused', 5)
    assert told.kinds == [('down', 'postgresql')]
    restarted = PostgresWatch(Alerter([told], 'w', HOUR), redis, every_s=0.02)
    watches[:] = [restarted]
    await see('connection refused', 3)
    assert len(told) == 1
    await see(None, 7)
    assert told.kinds == [('down', 'postgresql'), ('up', 'postgresql')]


@pytest.mark.parametrize('way', [Way.AWAY, Way.SILENT])
async def test_postgresql_is_told_of_while_redis_is_away_as_well(
    stack: Any, monkeypatch: Any, way: Way
) -> None:
    monkeypatch.setattr('delivery.alerts.alerter.STORE_TIMEOUT_S', 0.2)
    monkeypatch.setattr('delivery.alerts.postgres_watch.STORE_TIMEOUT_S', 0.2)
    told = Told()
    url = os.environ.get('TEST_ARQ_REDIS_URL') or stack.env['ARQ_REDIS_URL']
    async with Gate(url) as gate:
        redis = open_redis(redis_settings(gate.url), 'arq:queue')
        watch = PostgresWatch(Alerter([told], 'w', HOUR), redis, every_s=0.0)
        gate.turn(way)
        for _ in range(4):
            await watch.saw('gone')
        assert told.kinds == [('down', 'postgresql')]
        gate.turn(Way.OPEN)
        for _ in range(6):
            await watch.saw(None)
        assert told.kinds == [('down', 'postgresql'), ('up', 'postgresql')]
        await redis.aclose()


async def test_states_that_cannot_be_kept_cost_an_alert_and_nothing_else(
    runtime: Runtime, ctx: Any, pool: Any, inbox: Any, receiver: Receiver
) -> None:
    runtime.alerts = alerts_of(runtime, webhook_url=receiver.url)
    await pool.execute('ALTER TABLE mail_alerts RENAME TO elsewhere')
    inbox.control.listen('primary', on=False)
    assert (await check_service_health(ctx))['services']['smtp_primary'] == 'down'
    assert receiver.told == []


async def test_nobody_is_told_without_a_channel(runtime: Runtime, ctx: Any, pool: Any) -> None:
    assert make_alerter(AlertRules(), 'w', runtime.tunables.relays, runtime.tunables.sender) is None
    await check_service_health(ctx)
    assert await pool.fetchval('SELECT count(*) FROM mail_alerts') == 0


async def test_doctor_tells_once_of_a_check_that_fails_and_when_it_is_well_again(
    env: Any, pool: Any, redis: Any, receiver: Receiver
) -> None:
    told_env = env | {'ALERT_WEBHOOK_URL': receiver.url}

    async def doctor(where: dict[str, str]) -> Any:
        typed = await ops(where, 'doctor', 'postgresql', 'timeouts', '--alert', '--json')
        return typed.document['alerts']

    closed = told_env | {'DATABASE_URL': f'postgresql://x:y@127.0.0.1:{closed_port()}/x'}
    assert await doctor(told_env) == []
    assert await doctor(closed) == [{'kind': 'down', 'subject': 'doctor: postgresql'}]
    assert await doctor(closed) == []
    assert await doctor(told_env) == [{'kind': 'up', 'subject': 'doctor: postgresql'}]
    assert await doctor(told_env) == []
    assert receiver.told == [('down', 'doctor: postgresql'), ('up', 'doctor: postgresql')]
    assert not await redis.keys('mail:alert:*')
    nobody = await ops(env, 'doctor', 'timeouts', '--alert')
    assert nobody.status == 2
    assert 'ALERT_EMAILS' in nobody.err
