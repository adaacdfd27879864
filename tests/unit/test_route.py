"""Which relays are asked for which e-mail: routes, weights, failover, pauses, reload."""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import pytest

from mail.deliver import deliver
from mail.outcome import Outcome, Phase
from mail.priority import HIGH
from mail.progress import Progress
from mail.relay.options import SendingLimits
from mail.relay.pool import Relay
from mail.route import PAUSED_WAIT_S, SwitchableRelays
from mail.route_table import Route, RouteTable, Traits
from tests.unit.scripted_relay import ANNA, BOB, CARL, ScriptedRelay, rendered

NEWS = Route('news', email_types=frozenset({'news'}), chain=({'eu': 3.0, 'us': 1.0}, {'asia': 1.0}))
ORG = Route('org', recipient_domains=frozenset({'example.org'}), chain=({'us': 1.0},))


@pytest.fixture
async def servers() -> Any:
    async with (
        ScriptedRelay(name='eu') as eu,
        ScriptedRelay(name='us') as us,
        ScriptedRelay(name='asia') as asia,
    ):
        yield {'eu': eu, 'us': us, 'asia': asia}


@pytest.fixture
async def relays(servers: Any) -> Any:
    made = SwitchableRelays(
        [server.relay(made_from=name) for name, server in servers.items()], RouteTable([NEWS, ORG])
    )
    yield made
    made.close_idle(older_than_s=0)


async def sent(relays: SwitchableRelays, *to: str, email_type: str = 'other') -> Any:
    progress = Progress(traits=Traits(email_type))
    return await deliver(relays, rendered(*to), {}, progress)


def of(relays: SwitchableRelays, name: str) -> Relay:
    return next(relay for relay in relays if relay.name == name)


async def test_mail_of_a_route_is_shared_by_weight_and_all_other_goes_to_the_first(
    relays: SwitchableRelays,
) -> None:
    by = Counter([(await sent(relays, email_type='news')).relay for _ in range(8)])
    assert by == {'eu': 6, 'us': 2}
    assert {(await sent(relays)).relay for _ in range(3)} == {'eu'}


async def test_what_a_place_cannot_take_goes_to_the_next(relays: SwitchableRelays) -> None:
    of(relays, 'eu').cool_down('gone')
    assert {(await sent(relays, email_type='news')).relay for _ in range(3)} == {'us'}
    relays.pause(['us'])
    assert {(await sent(relays, email_type='news')).relay for _ in range(3)} == {'asia'}


async def test_refused_for_now_by_one_of_a_route_is_tried_by_the_next_of_it_only(
    servers: Any, relays: SwitchableRelays
) -> None:
    servers['us'].script['RCPT'] = '451 4.3.0 later'
    delivery = await sent(relays, 'anna@example.org')
    assert (delivery.outcome, delivery.relay) == (Outcome.DEFERRED, 'us')
    assert servers['eu'].sessions == servers['asia'].sessions == []


async def test_recipients_of_two_routes_each_get_it_by_their_own_relay(
    servers: Any, relays: SwitchableRelays
) -> None:
    delivery = await sent(relays, ANNA, 'dora@example.org', BOB)
    assert delivery.outcome is Outcome.ACCEPTED
    assert servers['eu'].recipients == [ANNA, BOB]
    assert servers['us'].recipients == ['dora@example.org']
    assert {outcome for outcome, _ in delivery.recipients.values()} == {Outcome.ACCEPTED}


async def test_who_is_on_a_route_that_is_away_gets_it_later_and_nobody_twice(
    servers: Any, relays: SwitchableRelays
) -> None:
    relays.pause(['us'])
    first = await sent(relays, ANNA, 'dora@example.org')
    assert first.outcome is Outcome.RELEASED
    assert first.retry_in_s == PAUSED_WAIT_S
    assert first.recipients[ANNA][0] is Outcome.ACCEPTED
    relays.pause([])
    second = await deliver(
        relays, rendered(ANNA, 'dora@example.org'), first.recipients, Progress(traits=Traits('x'))
    )
    assert second.outcome is Outcome.ACCEPTED
    assert (servers['eu'].recipients, servers['us'].recipients) == ([ANNA], ['dora@example.org'])


async def test_route_that_is_away_holds_no_connection_and_says_how_long(
    servers: Any, relays: SwitchableRelays
) -> None:
    of(relays, 'us').cool_down('gone')
    delivery = await sent(relays, 'anna@example.org')
    assert (delivery.outcome, delivery.phase) == (Outcome.RELEASED, Phase.CONNECT)
    assert 1 < delivery.retry_in_s <= 2
    assert (await sent(relays, CARL)).outcome is Outcome.ACCEPTED
    assert relays.away_for_s() == 0
    assert servers['us'].sessions == []


async def test_claims_pass_over_a_type_only_when_all_its_mail_has_no_relay(
    relays: SwitchableRelays,
) -> None:
    assert relays.types_away() == {}
    relays.pause(['eu', 'us'])
    assert relays.types_away() == {}
    relays.pause(['eu', 'us', 'asia'])
    assert relays.types_away() == {'news': PAUSED_WAIT_S}
    assert relays.away_for_s() == PAUSED_WAIT_S
    relays.pause([])
    assert relays.away_for_s() == 0


async def test_relay_that_no_route_names_is_no_reason_to_claim() -> None:
    async with ScriptedRelay(name='eu') as eu, ScriptedRelay(name='us') as us:
        only = Route('only', chain=({'eu': 1.0},))
        relays = SwitchableRelays([eu.relay(), us.relay()], RouteTable([only]))
        relays.pause(['eu'])
        assert relays.unavailable_for_s() == 0
        assert relays.away_for_s() == PAUSED_WAIT_S


async def test_reload_keeps_the_connections_of_relays_that_are_the_same(
    servers: Any, relays: SwitchableRelays
) -> None:
    await sent(relays)
    await sent(relays, 'anna@example.org')
    fresh = [
        Relay(dataclasses.replace(o, made_from='new' if o.name == 'us' else o.name))
        for o in (relay.options for relay in relays)
    ]
    table = RouteTable([dataclasses.replace(ORG, chain=({'us': 1.0}, {'eu': 1.0}))])
    assert relays.replace(fresh, table, 30) == ['us']
    await servers['us'].until(lambda: not servers['us'].open_sessions)
    await sent(relays)
    await sent(relays, 'anna@example.org')
    assert (len(servers['eu'].sessions), len(servers['us'].sessions)) == (1, 2)
    assert relays.types_away() == {}
    for task in relays._draining:
        task.cancel()
    await asyncio.gather(*relays._draining, return_exceptions=True)


async def test_mail_of_a_route_that_is_behind_is_given_back_each_with_its_time(
    servers: Any,
) -> None:
    slow = Route('slow', email_types=frozenset({'slow'}), chain=({'us': 1.0},))
    limits = SendingLimits(max_per_s=2.0)
    relays = SwitchableRelays(
        [servers['eu'].relay(), servers['us'].relay(limits=limits)], RouteTable([slow])
    )
    tasks = [asyncio.create_task(sent(relays, email_type='slow')) for _ in range(9)]
    done = await asyncio.gather(*tasks)
    given_back = [d for d in done if d.outcome is Outcome.RELEASED]
    assert 5 <= len(given_back) < 9  # the others had a slot within a second
    assert all(d.throttled and d.retry_in_s > 1 for d in given_back)
    waits_s = sorted(d.retry_in_s for d in given_back)
    assert waits_s[-1] - waits_s[0] == pytest.approx(0.5 * (len(waits_s) - 1), abs=0.3)
    assert (await sent(relays)).relay == 'eu'
    progress = Progress(traits=Traits('slow'), priority=HIGH)
    relay = of(relays, 'us')
    relay.rate._limit.per_s = 1000.0  # or it would wait long
    assert (await deliver(relays, rendered(), {}, progress)).outcome is Outcome.ACCEPTED
    relays.close_idle(older_than_s=0)
