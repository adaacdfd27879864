"""A relay's queue for connections.

Urgent mail is the next, and is told of everything as the others are.
"""

import asyncio
from typing import Any

import pytest

from mail.outcome import Outcome
from mail.priority import HIGH, LOW, MOST_PASSED, NORMAL
from mail.progress import Progress
from mail.relay.pool import Relay
from tests.unit.scripted_relay import ScriptedRelay, eventually, rendered, send

PIPELINING = '250-relay.test\r\n250-PIPELINING\r\n250 8BITMIME'


def start(relay: Relay, name: str, priority: int) -> asyncio.Task[Any]:
    mail = rendered(f'{name}@example.com')
    return asyncio.create_task(send(relay, mail=mail, progress=Progress(priority=priority)))


async def start_all(relay: Relay, *mails: tuple[str, int]) -> list[asyncio.Task[Any]]:
    """Have them come in this order."""
    tasks = []
    for name, priority in mails:
        waiting = len(relay._waiting)
        tasks.append(start(relay, name, priority))
        await eventually(lambda waiting=waiting: len(relay._waiting) == waiting + 1)
    return tasks


def names(server: ScriptedRelay) -> list[str]:
    return [recipient.partition('@')[0] for recipient in server.recipients]


@pytest.mark.parametrize('ehlo', ['250 relay.test', PIPELINING])
async def test_urgent_e_mail_is_the_next_on_a_connection_that_comes_free(ehlo: str) -> None:
    async with ScriptedRelay({'EHLO': ehlo}) as server:
        relay = server.relay(max_connections=1)
        gate = relay.rate._limit  # nobody begins before all are there
        gate.set(0.001)
        mails = [('l1', LOW), ('l2', LOW), ('n1', NORMAL), ('h1', HIGH), ('h2', HIGH)]
        tasks = await start_all(relay, *mails)
        gate.set(0.0)
        relay._waiting._use_slot()
        done = await asyncio.gather(*tasks)
        assert {delivery.outcome for delivery in done} == {Outcome.ACCEPTED}
        assert names(server) == ['h1', 'h2', 'n1', 'l1', 'l2']


async def test_urgent_e_mail_takes_the_next_slot_of_a_relay_that_wants_fewer() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=1)
        relay.rate._limit.set(0.001)
        tasks = await start_all(relay, ('l1', LOW), ('l2', LOW), ('h1', HIGH))
        relay.rate._limit._spent_until -= 1000.0  # one turn
        relay._waiting._use_slot()
        assert (await tasks[2]).outcome is Outcome.ACCEPTED
        assert names(server) == ['h1']
        assert not any(task.done() for task in tasks[:2])
        relay.send_away_waiting()
        assert {(await task).outcome for task in tasks[:2]} == {Outcome.RELEASED}


async def test_urgent_e_mail_begins_before_the_slot_that_others_wait_for() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=2)
        limit = relay.rate._limit
        limit.set(20)
        limit._spent_until += 0.01  # the next ordinary turn is later than an urgent one
        assert (relay.rate.allows(), relay.rate.allows(high=True)) == (False, True)
        assert not relay._waiting.is_behind_for(Progress(priority=HIGH))
        assert relay._waiting.is_behind_for(Progress(priority=NORMAL))


async def test_relay_that_pauses_begins_nothing_urgent_either() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay()
        relay.rate._limit.set(1000)
        relay.rate._limit.hold(30.0)
        assert not relay.rate.allows(high=True)


async def test_other_mail_is_carried_when_everything_is_urgent() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=1)
        relay.rate._limit.set(0.001)
        tasks = await start_all(relay, ('low', LOW), *((f'h{n}', HIGH) for n in range(15)))
        relay.rate._limit.set(0.0)
        relay._waiting._use_slot()
        await asyncio.gather(*tasks)
        assert names(server).index('low') == MOST_PASSED


async def test_all_who_wait_are_told_when_the_relay_is_left_alone() -> None:
    async with ScriptedRelay() as server:
        relay = server.relay(max_connections=1)
        relay.rate._limit.set(0.001)
        tasks = await start_all(relay, ('l', LOW), ('n', NORMAL), ('h', HIGH))
        relay.cool_down('it went away')
        assert [delivery.outcome for delivery in await asyncio.gather(*tasks)] == [
            Outcome.RELEASED
        ] * 3
        assert not relay._waiting
