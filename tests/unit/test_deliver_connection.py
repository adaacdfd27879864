"""What becomes of the connection when the one who sends is cut off, or the relay gave it up."""

import asyncio

import pytest

from mail.outcome import Outcome, Phase
from mail.progress import Progress
from tests.unit.scripted_relay import (
    DROP,
    MESSAGE,
    OFFERS_AUTH,
    POLITE,
    SHORT_S,
    STALL,
    ScriptedRelay,
    Step,
    send,
)

pytestmark = pytest.mark.usefixtures('pipelining')

LOGIN = {'username': 'shop', 'password': 'hunter2'}


@pytest.fixture
def long_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a cool-down from ending in the test, however slow the machine is."""
    monkeypatch.setattr('mail.relay.health.COOL_DOWN_BASE_S', 120.0)


async def test_lost_lease_before_data_leaves_the_relay_without_the_message() -> None:
    def lost() -> None:
        raise LookupError('the lease ran out')

    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=1)
        with pytest.raises(LookupError):
            await send(relay, progress=Progress(before_data=lost))
        assert 'MAIL' not in server.verbs
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert len(server.sessions) == 1


@pytest.mark.parametrize(
    ('verb', 'phase'),
    [
        ('EHLO', Phase.CONNECT),
        ('AUTH', Phase.CONNECT),
        ('MAIL', Phase.MAIL),
        ('RCPT', Phase.RCPT),
        ('DATA', Phase.DATA),
        ('DOT', Phase.BODY_SENT),
    ],
)
async def test_cancellation_closes_the_connection_and_frees_its_slot(
    verb: str, phase: Phase, *, pipelining: bool
) -> None:
    polite = {**POLITE, 'EHLO': OFFERS_AUTH}
    async with ScriptedRelay({**polite, verb: [STALL, polite.get(verb, '250 ok')]}) as server:
        relay, progress = server.relay(max_connections=1, **LOGIN), Progress()
        task = asyncio.create_task(send(relay, progress=progress))
        await server.until(lambda: server.bodies if verb == 'DOT' else verb in server.verbs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not pipelining:  # with it, the replies before may not have been read yet
            assert progress.phase is phase
        assert progress.relay == 'primary'
        assert progress.reached_data_end is (verb == 'DOT')
        await server.until(lambda: not server.open_sessions)
        assert (await send(relay)).outcome is Outcome.ACCEPTED


async def test_cancellation_is_not_lost_at_the_moment_the_connection_is_made() -> None:
    """Before Python 3.12 asyncio.wait_for, which aiosmtplib uses, swallows it when its future is
    done just then.
    """
    async with ScriptedRelay({'GREETING': STALL}) as server:
        task = asyncio.create_task(send(server.relay(connect_timeout_s=1.0)))
        await server.until(lambda: server.sessions)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    'second_mail', [DROP, ('421 4.4.2 idle for too long', DROP), '530 log in again']
)
async def test_kept_connection_that_went_stale_is_replaced_once(second_mail: Step) -> None:
    async with ScriptedRelay({'MAIL': ['250 ok', second_mail, '250 ok']}) as server:
        relay = server.relay()
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert relay.unavailable_for_s() == 0
        assert len(server.sessions) == 2
        assert server.bodies == [MESSAGE] * 2


@pytest.mark.parametrize(
    ('answer', 'outcome'), [(DROP, Outcome.DEFERRED), ('421 no', Outcome.RELEASED)]
)
async def test_relay_that_fails_on_the_fresh_connection_too_is_not_asked_again(
    answer: str, outcome: Outcome
) -> None:
    async with ScriptedRelay({'MAIL': ['250 ok', answer]}) as server:
        relay = server.relay()
        await send(relay)
        assert (await send(relay)).outcome is outcome
        assert server.verbs.count('MAIL') == 3


async def test_kept_connection_lost_after_the_dot_is_uncertain_and_not_tried_again() -> None:
    async with ScriptedRelay({'DOT': ['250 ok', DROP]}) as server:
        relay = server.relay()
        await send(relay)
        assert (await send(relay)).outcome is Outcome.UNCERTAIN
        assert server.bodies == [MESSAGE] * 2


@pytest.mark.parametrize('verb', ['MAIL', 'RCPT'])
async def test_relay_that_takes_data_without_a_recipient_gets_no_message(verb: str) -> None:
    """RFC 2920 lets it, when the commands came at once.

    Whatever followed would be taken for the message.
    """
    script = {verb: ['550 no', '250 ok'], 'OUT OF ORDER': '354 go ahead'}
    async with ScriptedRelay(script) as server:
        relay = server.relay()
        assert (await send(relay)).outcome is Outcome.REJECTED
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert server.bodies == [MESSAGE]


async def test_lease_lost_while_the_relay_was_thinking_leaves_it_without_the_message() -> None:
    held = iter([None])

    def lost_at_the_second_look() -> None:
        try:
            next(held)
        except StopIteration:
            raise LookupError('the lease ran out') from None

    async with ScriptedRelay() as server:
        with pytest.raises(LookupError):
            await send(server.relay(), progress=Progress(before_data=lost_at_the_second_look))
        await server.until(lambda: not server.open_sessions)
        assert server.bodies == []


@pytest.mark.parametrize('answer', [DROP, 'what', STALL])
@pytest.mark.usefixtures('long_cool_down')
async def test_new_connection_that_ends_at_mail_cools_the_relay_down_and_costs_one_attempt(
    answer: str,
) -> None:
    async with ScriptedRelay({'MAIL': answer}) as server:
        relay = server.relay(command_timeout_s=SHORT_S)
        first, second = await send(relay), await send(relay)
        assert (first.outcome, first.phase, first.reply) == (Outcome.DEFERRED, Phase.MAIL, None)
        assert 'primary: MAIL: ' in (first.error or '')
        assert second.outcome is Outcome.RELEASED
        assert relay.unavailable_for_s() > 0
        assert len(server.sessions) == 1


@pytest.mark.usefixtures('long_cool_down')
async def test_relay_that_closes_at_mail_costs_each_connection_an_attempt_and_who_waits_none() -> (
    None
):
    async with ScriptedRelay({'MAIL': DROP}) as server:
        relay = server.relay(max_connections=2)
        deliveries = await asyncio.gather(*(send(relay) for _ in range(20)))
        outcomes = [delivery.outcome for delivery in deliveries]
        assert 1 <= outcomes.count(Outcome.DEFERRED) <= 2
        assert outcomes.count(Outcome.RELEASED) == 20 - outcomes.count(Outcome.DEFERRED)


async def test_connection_lost_at_rcpt_is_no_fault_of_the_relay() -> None:
    async with ScriptedRelay({'RCPT': [DROP, '250 ok']}) as server:
        relay = server.relay()
        assert (await send(relay)).outcome is Outcome.DEFERRED
        assert relay.unavailable_for_s() == 0
        assert (await send(relay)).outcome is Outcome.ACCEPTED


async def test_greeted_connection_that_went_stale_is_replaced_like_any_kept_one() -> None:
    async with ScriptedRelay({'MAIL': [DROP, '250 ok']}) as server:
        relay = server.relay()
        await relay.greet()
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert relay.unavailable_for_s() == 0
        assert len(server.sessions) == 2
