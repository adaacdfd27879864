"""A relay's name with several addresses, some of them dead."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from mail.outcome import Outcome
from mail.relay.addresses import ATTEMPT_DELAY_S, Address, interleave, open_socket
from tests.unit.scripted_relay import DROP, STALL, Script, ScriptedRelay, send

V4, V6 = socket.AF_INET, socket.AF_INET6


@contextlib.contextmanager
def black_hole() -> Iterator[Address]:
    """An address that never answers a SYN: it listens, and its backlog is full."""
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind(('127.0.0.1', 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):
            filling = opened.enter_context(socket.socket())
            filling.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filling.connect(address)
        yield Address(V4, address)


def at(port: int) -> Address:
    return Address(V4, ('127.0.0.1', port))


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """What the name of the relay resolves to."""
    addresses: list[Address] = []

    async def resolve(_host: str, _port: int) -> list[Address]:
        return list(addresses)

    monkeypatch.setattr('mail.relay.dial.resolve', resolve)
    return addresses


def test_families_come_in_turns_that_of_the_first_first() -> None:
    six, four = (
        [Address(V6, (f'::{i}', 25)) for i in range(3)],
        [Address(V4, (f'10.0.0.{i}', 25)) for i in range(1)],
    )
    assert interleave([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert interleave([*four, *six]) == [four[0], six[0], six[1], six[2]]


@pytest.mark.parametrize('dead', [1, 3])
async def test_e_mail_goes_to_the_address_that_answers_behind_dead_ones(
    resolved: list[Address], dead: int
) -> None:
    with contextlib.ExitStack() as holes:
        async with ScriptedRelay() as server:
            resolved += [*(holes.enter_context(black_hole()) for _ in range(dead)), at(server.port)]
            delivery = await send(server.relay(connect_timeout_s=10))
            assert delivery.outcome is Outcome.ACCEPTED


async def test_e_mail_goes_to_the_address_that_answers_behind_ones_that_refuse(
    resolved: list[Address], free_port: int
) -> None:
    async with ScriptedRelay() as server:
        resolved += [Address(V6, ('::1', free_port, 0, 0)), at(free_port), at(server.port)]
        assert (await send(server.relay())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize('script', [{'GREETING': DROP}, {'GREETING': STALL}], ids=str)
async def test_address_that_does_not_greet_is_followed_by_the_next(
    resolved: list[Address], script: Script
) -> None:
    async with ScriptedRelay(script) as mute, ScriptedRelay() as server:
        resolved += [at(mute.port), at(server.port)]
        timeout_s = 1.0 if script['GREETING'] == STALL else 10.0
        assert (await send(server.relay(connect_timeout_s=timeout_s))).outcome is Outcome.ACCEPTED
        await mute.until(lambda: not mute.open_sessions)


async def test_all_addresses_are_tried_within_the_connect_timeout(resolved: list[Address]) -> None:
    """Twenty dead ones with a quarter of a second each would take longer than that."""
    with contextlib.ExitStack() as holes:
        async with ScriptedRelay() as server:
            resolved += [holes.enter_context(black_hole())] * 20 + [at(server.port)]
            timeout_s = 20 * ATTEMPT_DELAY_S / 2
            assert (
                await send(server.relay(connect_timeout_s=timeout_s))
            ).outcome is Outcome.ACCEPTED


async def test_connections_that_come_too_late_are_closed(resolved: list[Address]) -> None:
    async with ScriptedRelay() as first, ScriptedRelay() as second:
        addresses = [at(first.port), at(second.port)]
        sock, address = await open_socket(addresses, 10)
        assert address in addresses
        sock.close()
        await first.until(lambda: not (first.open_sessions or second.open_sessions))


async def test_relay_whose_addresses_are_all_dead_tells_of_each_and_costs_no_attempt(
    resolved: list[Address], free_port: int
) -> None:
    with black_hole() as hole:
        async with ScriptedRelay() as server:
            resolved += [hole, at(free_port)]
            delivery = await send(server.relay(connect_timeout_s=0.5))
            assert delivery.outcome is Outcome.RELEASED
            assert '127.0.0.1: no answer within 0.5 s' in (delivery.error or '')
            assert 'refused' in (delivery.error or '') or 'Connect call failed' in (
                delivery.error or ''
            )
            assert not server.sessions


async def test_name_that_nobody_knows_costs_no_attempt() -> None:
    async with ScriptedRelay() as server:
        delivery = await send(server.relay(host='no-such-host.invalid'))
        assert delivery.outcome is Outcome.RELEASED
        assert 'no-such-host.invalid' in (delivery.error or '')


async def test_cancelled_connection_leaves_nothing_open() -> None:
    with black_hole() as hole:
        task = asyncio.create_task(open_socket([hole], 60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
