"""A relay that says it takes no more now: no e-mail pays for it, and it gets what it takes."""

import asyncio
import time

import pytest

from mail.outcome import Delivery, Outcome, Phase, Policy, Reply, Status, decide
from mail.progress import Progress
from mail.relay.pool import Relay
from mail.relay_attempt import RelayAttempt
from mail.route import Relays
from tests.unit.scripted_relay import ANNA, BOB, CARL, ScriptedRelay, eventually, rendered, send

WORDS = '454 Throttling failure: Maximum sending rate exceeded.'
TOO_MUCH = Reply(454, WORDS[4:])


def slow_down(relay: Relay) -> None:
    """Have three e-mails been refused."""
    for number in range(3):
        relay.rate.throttled(TOO_MUCH, number)
    assert relay.rate.per_s == 1


def set_rate(relay: Relay, per_s: float) -> None:
    """Let it take so many a second, the first now."""
    relay.rate._limit.set(per_s)
    relay.rate._limit._spent_until -= 1 / per_s


@pytest.mark.parametrize('verb', ['MAIL', 'RCPT', 'DATA', 'DOT'])
async def test_e_mail_that_was_too_much_is_released_and_comes_back_soon(verb: str) -> None:
    async with ScriptedRelay({verb: WORDS}) as server:
        relay = server.relay()
        delivery = await send(relay)
        assert (delivery.outcome, delivery.throttled, delivery.retry_in_s) == (
            Outcome.RELEASED,
            True,
            5,
        )
        assert delivery.reply == TOO_MUCH
        assert delivery.error == f'primary: {WORDS[4:]}'
        assert relay.unavailable_for_s() == 0
        assert relay.rate.per_s == 0  # one alone is not the relay's trouble
        assert {(await send(relay, mail=rendered(to))).retry_in_s for to in (BOB, CARL)} == {5}
        assert relay.rate.per_s == 1
        decision = decide(delivery, 5, 5, None, Policy(60.0, 3600.0))
        assert (decision.status, decision.retry_in_s, decision.counts) == (Status.PENDING, 5, False)


@pytest.mark.parametrize('verb', ['MAIL', 'DOT'])
async def test_421_because_it_is_too_much_is_no_outage(verb: str) -> None:
    async with ScriptedRelay(
        {verb: [('421 4.7.0 Too many messages, slow down', 'drop'), '250 ok']}
    ) as server:
        relay = server.relay()
        delivery = await send(relay)
        assert (delivery.outcome, delivery.throttled) == (Outcome.RELEASED, True)
        assert relay.unavailable_for_s() == 0
        assert relay.last_error is None
        assert (await send(relay)).outcome is Outcome.ACCEPTED


async def test_other_relay_takes_what_was_too_much_for_the_first_and_what_would_wait_for_it() -> (
    None
):
    async with ScriptedRelay({'MAIL': WORDS}) as first, ScriptedRelay(name='backup') as second:
        primary, backup = first.relay(), second.relay()
        for recipient in (ANNA, BOB, CARL, ANNA, BOB):
            delivery = await send(primary, backup, mail=rendered(recipient))
            assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'backup')
        assert first.verbs.count('MAIL') == 3


async def test_those_who_wait_are_sent_away_when_another_relay_is_faster() -> None:
    async with ScriptedRelay() as first, ScriptedRelay(name='backup') as second:
        primary, backup = first.relay(), second.relay()
        set_rate(primary, 0.2)
        waiting = [asyncio.create_task(send(primary)) for _ in range(4)]
        await eventually(lambda: len(primary._waiting) == 3)
        refused = Delivery(Outcome.DEFERRED, Phase.MAIL, 'primary', TOO_MUCH)
        for others, left in ([], 3), ([backup], 0):
            attempt = RelayAttempt(
                Relays([primary, *others]), rendered(BOB), (BOB,), {}, Progress()
            )
            attempt._throttled(primary, refused)
            assert len(primary._waiting) == left
        done = await asyncio.gather(*waiting)
        assert [delivery.outcome for delivery in done] == [Outcome.ACCEPTED] + [
            Outcome.RELEASED
        ] * 3
        assert {(delivery.throttled, delivery.retry_in_s) for delivery in done[1:]} == {(True, 5)}


async def test_throttled_e_mail_does_not_pay_for_another_relay_that_is_not_there() -> None:
    async with (
        ScriptedRelay({'MAIL': WORDS}) as first,
        ScriptedRelay({'GREETING': 'drop'}, name='backup') as second,
    ):
        delivery = await send(first.relay(), second.relay())
        assert (delivery.outcome, delivery.throttled, delivery.retry_in_s) == (
            Outcome.RELEASED,
            True,
            5,
        )


async def test_recipients_that_were_accepted_get_no_second_copy() -> None:
    async with ScriptedRelay(
        {f'RCPT <{BOB}>': '450 4.7.1 Error: too many recipients from 192.0.2.7'}
    ) as server:
        relay, mail = server.relay(), rendered(ANNA, BOB)
        delivery = await send(relay, mail=mail)
        assert (delivery.outcome, delivery.throttled) == (Outcome.RELEASED, True)
        assert delivery.recipients is not None
        assert {to: outcome for to, (outcome, _) in delivery.recipients.items()} == {
            ANNA: Outcome.ACCEPTED,
            BOB: Outcome.DEFERRED,
        }
        del server.script[f'RCPT <{BOB}>']
        assert (
            await send(relay, mail=mail, settled=delivery.recipients)
        ).outcome is Outcome.ACCEPTED
        assert server.recipients == [ANNA, BOB, BOB]


async def test_one_recipient_with_a_problem_of_his_own_makes_the_attempt_count() -> None:
    script = {f'RCPT <{ANNA}>': WORDS, f'RCPT <{BOB}>': '450 4.2.1 mailbox busy'}
    async with ScriptedRelay(script) as server:
        relay = server.relay()
        delivery = await send(relay, mail=rendered(ANNA, BOB))
        assert (delivery.outcome, delivery.throttled) == (Outcome.DEFERRED, False)
        assert relay.rate.per_s == 0


async def test_e_mails_begin_no_faster_than_the_rate_and_in_their_order() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=5)
        relay.rate._limit.set(50)
        relay.rate._is_known = True
        began, accepted = time.monotonic(), []

        async def one(number: int) -> None:
            assert (await send(relay)).outcome is Outcome.ACCEPTED
            accepted.append(number)

        await asyncio.gather(*[one(number) for number in range(16)])
        assert (
            time.monotonic() - began > (16 - 5 - 1) / 51
        )  # five at once; the rate grows a little with each
        assert accepted[6:] == sorted(
            accepted[6:]
        )  # the first five connect at the same time, and may change places


async def test_suspect_does_not_wait_for_its_turn() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        slow_down(relay)
        assert not relay.rate.allows()
        delivery = await send(relay, progress=Progress(phase=Phase.CONTENT, urgent=True))
        assert delivery.outcome is Outcome.ACCEPTED


async def test_who_waits_for_his_turn_is_told_when_the_relay_fails_and_may_be_cancelled() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        set_rate(relay, 0.2)
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        cancelled, failed = (asyncio.create_task(send(relay)) for _ in range(2))
        await eventually(lambda: len(relay._waiting) == 2)
        cancelled.cancel()
        relay.cool_down('it went away')
        assert (await failed).outcome is Outcome.RELEASED
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert server.verbs.count('MAIL') == 1


async def test_slow_rate_takes_few_connections() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=20)
        relay.rate._limit.set(14)
        assert relay.wanted_connections == 7
        await asyncio.gather(*[send(relay) for _ in range(4)])
        assert len(server.sessions) <= 4
        relay.rate._limit.set(0)
        assert relay.wanted_connections == 20


async def test_relay_that_pauses_comes_after_one_whose_turn_comes_sooner() -> None:
    async with ScriptedRelay() as first, ScriptedRelay(name='backup') as second:
        primary, backup = first.relay(), second.relay()
        primary.rate._limit.set(0.2)
        primary.rate._limit.hold(30.0)
        backup.rate._limit.set(2)
        assert primary.slot_in_s() > 30 > backup.slot_in_s()
        assert Relays([primary, backup]).available() == [backup, primary]
