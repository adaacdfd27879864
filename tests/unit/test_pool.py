"""A relay's kept connections and its health."""

import asyncio
import base64

import pytest

from mail.outcome import Outcome
from mail.progress import Progress
from mail.relay.errors import RelayError, RelayRefusedError
from mail.relay.options import RelayOptions, SendingLimits, Tls
from mail.relay.pool import Relay
from mail.route import Relays
from tests.unit.scripted_relay import (
    DROP,
    OFFERS_AUTH,
    SHORT_S,
    STALL,
    Clock,
    Script,
    ScriptedRelay,
    send,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr('mail.relay.pool.time', clock)
    return clock


def nowhere(name: str = 'primary', port: int = 1) -> Relay:
    return Relay(RelayOptions(name, '127.0.0.1', port, Tls.NONE, local_hostname='test'))


# Connections.


async def test_kept_connection_is_used_again() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        for _ in range(3):
            assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert len(server.sessions) == 1


async def test_connection_that_the_relay_closed_while_it_was_idle_is_not_used() -> None:
    async with ScriptedRelay({'DOT': ('250 ok', DROP)}) as server:
        relay = server.relay()
        for _ in range(2):
            assert (await send(relay)).outcome is Outcome.ACCEPTED
            await server.until(lambda: not server.open_sessions)
        assert server.verbs.count('MAIL') == 2


async def test_connection_on_which_the_relay_speaks_unasked_is_closed() -> None:
    async with ScriptedRelay({'DOT': ('250 ok', '421 4.4.2 idle for too long')}) as server:
        relay = server.relay()
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        await server.until(lambda: not server.open_sessions)
        assert relay.unavailable_for_s() == 0


async def test_greeting_keeps_the_connection_for_the_next_e_mail(clock: Clock) -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        relay.cool_down('gone')
        clock.now_s += 2
        await relay.greet()
        assert relay.last_error is None
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert len(server.sessions) == 1


async def test_connection_is_closed_after_its_last_message() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(limits=SendingLimits(max_messages=2))
        for _ in range(3):
            await send(relay)
        assert [session.verbs.count('DATA') for session in server.sessions] == [2, 1]


async def test_idle_connection_is_closed_after_the_idle_timeout(clock: Clock) -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(idle_timeout_s=30)
        await send(relay)
        clock.now_s += 29
        Relays([relay]).close_idle()
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert len(server.sessions) == 1
        clock.now_s += 30
        Relays([relay]).close_idle()
        await server.until(lambda: not server.open_sessions)


async def test_no_more_connections_are_open_than_allowed() -> None:
    async with ScriptedRelay({'DATA': [STALL, STALL, '354 go ahead']}) as server:
        relay = server.relay(max_connections=2)
        tasks = [asyncio.create_task(send(relay)) for _ in range(5)]
        await server.until(lambda: server.verbs.count('DATA') == 2)
        assert server.open_sessions == 2
        for task in tasks[:2]:
            task.cancel()
        done = await asyncio.gather(*tasks[2:])
        assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * 3
        assert len(server.sessions) <= 4


# Connecting.


@pytest.mark.parametrize(
    ('script', 'error'),
    [
        ({'GREETING': DROP}, RelayError),
        ({'GREETING': STALL}, RelayError),
        ({'GREETING': '554 5.3.2 not now'}, RelayError),
        ({'EHLO': '550 5.7.1 unknown'}, RelayError),
        ({'GREETING': 'nonsense'}, RelayError),
        ({'GREETING': '421 4.3.2 busy'}, RelayRefusedError),
        ({'EHLO': '421 4.3.2 busy'}, RelayRefusedError),
    ],
    ids=str,
)
async def test_failed_connection_raises_and_leaves_nothing_open(
    script: Script, error: type[RelayError]
) -> None:
    async with ScriptedRelay(script) as server:
        relay = server.relay(connect_timeout_s=SHORT_S, max_connections=1)
        for _ in range(2):
            with pytest.raises(RelayError, match='primary') as raised:
                await relay.greet()
            assert type(raised.value) is error
        await server.until(lambda: not server.open_sessions)


async def test_refused_port_raises_with_the_place(free_port: int) -> None:
    with pytest.raises(RelayError, match=rf'primary \(127\.0\.0\.1:{free_port}\)'):
        await nowhere(port=free_port).greet()


async def test_login_sends_user_and_password() -> None:
    async with ScriptedRelay({'EHLO': OFFERS_AUTH}) as server:
        relay = server.relay(username='shop', password='hunter2')
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        scheme, _, credentials = server.sessions[0].lines[1].removeprefix('AUTH ').partition(' ')
        assert (scheme, base64.b64decode(credentials)) == ('PLAIN', b'\0shop\0hunter2')


def test_password_is_not_shown_with_the_options() -> None:
    options = RelayOptions(
        'primary', 'localhost', 25, Tls.NONE, username='shop', password='hunter2'
    )
    assert 'hunter2' not in repr(options)


# Health.


def test_cool_down_doubles_up_to_its_cap(clock: Clock) -> None:
    relay, pauses = nowhere(), []
    for _ in range(9):
        relay.cool_down('gone')
        pauses.append(relay.unavailable_for_s())
        clock.now_s += pauses[-1]
        assert relay.unavailable_for_s() == 0
    assert pauses == [2, 4, 8, 16, 32, 64, 120, 120, 120]


def test_cool_down_after_ten_thousand_failures_is_still_the_cap(clock: Clock) -> None:
    relay = nowhere()
    for _ in range(10_000):
        relay.cool_down('gone')
        clock.now_s += relay.unavailable_for_s()
    relay.cool_down('gone')
    assert relay.unavailable_for_s() == 120


def test_recovered_resets_the_cool_down(clock: Clock) -> None:
    relay = nowhere()
    for _ in range(5):
        relay.cool_down('gone')
        clock.now_s += relay.unavailable_for_s()
    assert relay.last_error == 'gone'
    relay.recovered()
    assert relay.last_error is None
    relay.cool_down('gone again')
    assert relay.unavailable_for_s() == 2


async def test_answer_of_the_relay_ends_the_row_of_failures(clock: Clock) -> None:
    async with ScriptedRelay({'GREETING': ['421 busy', '220 ok', '421 busy']}) as server:
        relay = server.relay()
        for outcome in (Outcome.RELEASED, Outcome.ACCEPTED):
            assert (await send(relay)).outcome is outcome
            clock.now_s += 2
        relay.close_idle(older_than_s=0)
        await send(relay)
        assert relay.unavailable_for_s() == 2


async def test_failures_of_one_moment_lengthen_the_cool_down_once(
    clock: Clock, free_port: int
) -> None:
    relay = nowhere(port=free_port)
    await asyncio.gather(*[send(relay) for _ in range(8)])
    assert relay.unavailable_for_s() == 2


async def test_cool_down_closes_the_kept_connections() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        await send(relay)
        relay.cool_down('421')
        await server.until(lambda: not server.open_sessions)


async def test_one_e_mail_at_a_time_tries_a_relay_that_failed(clock: Clock) -> None:
    async with ScriptedRelay({'RCPT': [STALL, '250 ok']}) as server:
        relay = server.relay()
        relay.cool_down('gone')
        clock.now_s += 2
        probe = asyncio.create_task(send(relay))
        await server.until(lambda: 'RCPT' in server.verbs)
        other = await send(relay)
        assert (other.outcome, other.error) == (Outcome.RELEASED, 'no relay is available')
        assert other.retry_in_s == 1
        assert len(server.sessions) == 1
        probe.cancel()
        await asyncio.wait([probe])
        assert relay.unavailable_for_s() == 0
        assert (await send(relay)).outcome is Outcome.ACCEPTED


async def test_probe_that_fails_lengthens_the_cool_down(clock: Clock) -> None:
    async with ScriptedRelay({'GREETING': '421 busy'}) as server:
        relay = server.relay()
        for pause_s in (2, 4, 8):
            assert (await send(relay)).outcome is Outcome.RELEASED
            assert relay.unavailable_for_s() == pause_s
            clock.now_s += pause_s


async def test_all_e_mails_go_once_the_probe_got_through(clock: Clock) -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        relay.cool_down('gone')
        clock.now_s += 2
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        done = await asyncio.gather(*[send(relay) for _ in range(4)])
        assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] * 4


def test_available_relays_come_in_the_order_of_preference(clock: Clock) -> None:
    primary, backup = nowhere('primary'), nowhere('backup')
    relays = Relays([primary, backup])
    assert list(relays) == [primary, backup]
    assert relays.available() == [primary, backup]
    primary.cool_down('gone')
    assert relays.available() == [backup]
    assert relays.unavailable_for_s() == 0
    backup.cool_down('gone')
    backup.cool_down('gone')
    assert relays.available() == []
    assert relays.unavailable_for_s() == 2


async def test_answer_that_comes_together_with_a_cancellation_is_not_lost() -> None:
    async with ScriptedRelay({'DOT': STALL}) as server:
        relay, progress = server.relay(), Progress()
        task = asyncio.create_task(send(relay, progress=progress))
        await server.until(lambda: server.bodies)
        (session,) = relay._sessions
        session.data_received(b'250 queued\r\n')
        task.cancel()
        assert (await task).outcome is Outcome.ACCEPTED
        relay.close_idle(older_than_s=0)


async def test_relay_that_closes_after_the_greeting_cools_down_and_nobody_waits_for_it(
    clock: Clock,
) -> None:
    async with ScriptedRelay({'EHLO': ('250 relay.test', DROP)}) as server:
        relay = server.relay(max_connections=1)
        async with asyncio.timeout(5):
            done = await asyncio.gather(*[send(relay) for _ in range(5)])
        assert {delivery.outcome for delivery in done} <= {Outcome.RELEASED, Outcome.DEFERRED}
        assert len(server.sessions) <= 10
