"""A relay that ends a connection after some messages, with 421 or without a word."""

import asyncio

import pytest

from mail.outcome import Outcome
from mail.relay.learned_limits import FEWER_MESSAGES_FOR_S
from mail.relay.pool import Relay
from tests.unit.scripted_relay import DROP, Clock, ScriptedRelay, send

OK = '250 2.0.0 ok'
FAREWELLS = [
    (DROP,),
    ('421 4.7.0 enough for one connection', DROP),
    ('452 4.5.3 Too many recipients: Too many messages sent',),  # OpenSMTPD waits for our QUIT
]

pytestmark = [pytest.mark.usefixtures('pipelining'), pytest.mark.parametrize('farewell', FAREWELLS)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr('mail.relay.pool.time', clock)
    return clock


async def send_many(relay: Relay, count: int) -> None:
    done = await asyncio.gather(*[send(relay) for _ in range(count)])
    assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * count


@pytest.mark.parametrize('connections', [1, 3])
async def test_no_e_mail_pays_for_it(farewell: tuple[str, ...], connections: int) -> None:
    async with ScriptedRelay({'DOT': (OK, *farewell)}) as server:
        relay = server.relay(max_connections=connections)
        await send_many(relay, 30)
        assert len(server.bodies) == 30
        assert relay.unavailable_for_s() == 0


async def test_two_connections_teach_how_many_it_takes_for_a_while(
    farewell: tuple[str, ...], clock: Clock
) -> None:
    async with ScriptedRelay({'MAIL': [OK, OK, farewell, OK, OK, farewell, OK]}) as server:
        relay = server.relay(max_connections=1)
        await send_many(relay, 12)
        assert [session.verbs.count('MAIL') for session in server.sessions] == [3, 3, 2, 2, 2, 2]
        clock.now_s += FEWER_MESSAGES_FOR_S + 1
        relay.upkeep()
        await send_many(relay, 12)
        assert [session.verbs.count('MAIL') for session in server.sessions[6:]] == [12]


async def test_connection_that_ends_after_a_rest_teaches_nothing(farewell: tuple[str, ...]) -> None:
    async with ScriptedRelay({'MAIL': [OK, farewell, OK, farewell, OK, farewell, OK]}) as server:
        relay = server.relay(max_connections=1)
        for _ in range(4):
            await send_many(relay, 1)
        await send_many(relay, 5)
        assert len(server.sessions) == 4
        assert relay.unavailable_for_s() == 0
