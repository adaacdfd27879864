"""A relay that takes fewer connections than we may open.

Others of ours, or of other workers, have them.
"""

import asyncio

import pytest

from mail.outcome import Outcome
from mail.relay.health import SERVES_S
from mail.relay.learned_limits import ONE_MORE_EVERY_S
from tests.unit.scripted_relay import DROP, SHORT_S, STALL, Clock, ScriptedRelay, Step, send

WELCOME = '220 relay.test ESMTP'
TOO_MANY = '421 4.7.0 too many connections from you'


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr('mail.relay.pool.time', clock)
    return clock


@pytest.mark.parametrize(
    'refusal', [TOO_MANY, (TOO_MANY, DROP), '554 5.7.1 no', '450 4.3.2 busy', DROP]
)
async def test_all_e_mails_go_over_the_connections_it_takes(refusal: Step) -> None:
    async with ScriptedRelay({'GREETING': [WELCOME, WELCOME, refusal]}) as server:
        relay = server.relay(max_connections=5)
        done = await asyncio.gather(*[send(relay) for _ in range(20)])
        assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * 20
        assert sum('MAIL' in session.verbs for session in server.sessions) == 2
        assert len(server.sessions) == 5
        assert relay.unavailable_for_s() == 0


async def test_one_more_connection_is_tried_now_and_then(clock: Clock) -> None:
    half_s = ONE_MORE_EVERY_S / 2
    async with ScriptedRelay({'GREETING': [WELCOME, TOO_MANY, TOO_MANY, WELCOME]}) as server:
        relay = server.relay(max_connections=3)
        for waits_s, connections in ((0, 3), (half_s, 3), (half_s, 4), (0, 5), (0, 5)):
            clock.now_s += waits_s
            done = await asyncio.gather(*[send(relay) for _ in range(5)])
            assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * 5
            assert len(server.sessions) == connections


async def test_relay_that_refuses_all_cools_down_and_gets_all_connections_afterwards(
    clock: Clock,
) -> None:
    async with ScriptedRelay({'GREETING': [TOO_MANY] * 5 + [WELCOME]}) as server:
        relay = server.relay(max_connections=5)
        done = await asyncio.gather(*[send(relay) for _ in range(20)])
        assert {delivery.outcome for delivery in done} == {Outcome.RELEASED}
        assert relay.unavailable_for_s() == 2
        clock.now_s += 2
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        await asyncio.gather(*[send(relay) for _ in range(20)])
        assert server.open_sessions == 5


async def test_relay_that_lets_nobody_in_costs_no_e_mail_an_attempt(clock: Clock) -> None:
    async with ScriptedRelay({'GREETING': DROP}) as server:
        relay = server.relay(max_connections=5)
        done = await asyncio.gather(*[send(relay) for _ in range(20)])
        assert {delivery.outcome for delivery in done} == {Outcome.RELEASED}
        assert relay.unavailable_for_s() == 2


@pytest.mark.parametrize('refusal', [DROP, TOO_MANY])
async def test_relay_that_hangs_and_lets_nobody_in_cools_down(clock: Clock, refusal: Step) -> None:
    async with ScriptedRelay({'GREETING': [WELCOME, refusal], 'DOT': STALL}) as server:
        relay = server.relay(max_connections=5)
        hanging = asyncio.create_task(send(relay))
        await server.until(lambda: server.bodies)
        clock.now_s += SERVES_S
        assert (await send(relay)).outcome is Outcome.RELEASED
        assert relay.unavailable_for_s() == 2
        hanging.cancel()
        await asyncio.wait([hanging])


async def test_e_mail_that_nobody_greets_takes_a_connection_that_came_free(clock: Clock) -> None:
    async with ScriptedRelay({'GREETING': [WELCOME, STALL]}) as server:
        relay = server.relay(max_connections=5, connect_timeout_s=SHORT_S)
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        done = await asyncio.gather(send(relay), send(relay))
        assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * 2
        assert [session.verbs.count('MAIL') for session in server.sessions] == [3, 0]


async def test_refused_e_mail_does_not_wait_for_a_connection_that_was_given_up() -> None:
    async with ScriptedRelay({'GREETING': [STALL, TOO_MANY, WELCOME]}) as server:
        relay = server.relay(max_connections=5)
        first = asyncio.create_task(send(relay))
        await server.until(lambda: server.sessions)
        second = asyncio.create_task(send(relay))
        await server.until(lambda: len(server.sessions) == 2 and not server.sessions[1].open)
        first.cancel()
        assert (await second).outcome is Outcome.ACCEPTED
