"""The body on its way to the relay.

Its bytes, its size, and the connection lost in the middle of it.
"""

import re

import pytest

from mail.outcome import Outcome, Phase
from mail.progress import Progress
from tests.unit.scripted_relay import (
    DROP,
    FREEZE,
    MESSAGE,
    SHORT_S,
    ScriptedRelay,
    rendered,
    send,
)

pytestmark = pytest.mark.usefixtures('pipelining')


def big_message(size_bytes: int) -> bytes:
    line = b'x' * 70 + b'\r\n'
    return MESSAGE + line * (size_bytes // len(line))


@pytest.mark.parametrize(
    ('message', 'on_the_wire'),
    [
        (b'.\r\n', b'..\r\n'),
        (b'..\r\n', b'...\r\n'),
        (b'a\r\n.b\r\n\r\n..c\r\n', b'a\r\n..b\r\n\r\n...c\r\n'),
        (b'a.\r\nb .\r\n', b'a.\r\nb .\r\n'),
        (b'a\r\n.\r\nMAIL FROM:<x@example.com>\r\n', b'a\r\n..\r\nMAIL FROM:<x@example.com>\r\n'),
        (b'no line end', b'no line end\r\n'),
        (b'', b'\r\n'),
    ],
)
async def test_body_is_dot_stuffed_to_the_byte(message: bytes, on_the_wire: bytes) -> None:
    async with ScriptedRelay() as server:
        assert (
            await send(server.relay(), mail=rendered(message=message))
        ).outcome is Outcome.ACCEPTED
        assert server.bodies == [on_the_wire]


@pytest.mark.parametrize('size_bytes', [64 * 1024 - 100, 64 * 1024, 1_000_000])
async def test_big_message_arrives_as_it_is_and_its_connection_is_kept(size_bytes: int) -> None:
    message = re.sub(rb'xx\r\n', b'xx\r\n.', big_message(size_bytes))
    async with ScriptedRelay() as server:
        relay = server.relay()
        for _ in range(2):
            assert (await send(relay, mail=rendered(message=message))).outcome is Outcome.ACCEPTED
        assert [body.replace(b'\r\n..', b'\r\n.') for body in server.bodies] == [
            message + b'\r\n'
        ] * 2
        assert len(server.sessions) == 1


@pytest.mark.parametrize(
    'size_bytes', [16_000_000]
)  # more than the kernel takes from us ahead of the relay
async def test_connection_lost_in_the_middle_of_a_big_body_is_deferred(size_bytes: int) -> None:
    async with ScriptedRelay({'BODY': DROP}) as server:
        progress = Progress()
        delivery = await send(
            server.relay(), mail=rendered(message=big_message(size_bytes)), progress=progress
        )
        assert server.sessions[0].body_bytes < size_bytes / 2
        assert (delivery.outcome, delivery.phase) == (Outcome.DEFERRED, Phase.BODY)
        assert not progress.reached_data_end


async def test_relay_that_stops_reading_the_body_is_deferred() -> None:
    async with ScriptedRelay({'BODY': FREEZE}) as server:
        message = big_message(8_000_000)
        delivery = await send(server.relay(body_timeout_s=SHORT_S), mail=rendered(message=message))
        assert (delivery.outcome, delivery.phase) == (Outcome.DEFERRED, Phase.BODY)


@pytest.mark.parametrize(
    ('size', 'outcome'),
    [
        (f'SIZE {len(MESSAGE) - 1}', Outcome.REJECTED),
        (f'SIZE {len(MESSAGE)}', Outcome.ACCEPTED),
        ('SIZE 0', Outcome.ACCEPTED),
        ('SIZE', Outcome.ACCEPTED),
    ],
)
async def test_message_over_the_relays_size_is_rejected_without_sending_it(
    size: str, outcome: Outcome
) -> None:
    async with ScriptedRelay({'EHLO': f'250-relay.test\r\n250 {size}'}) as server:
        relay = server.relay()
        for _ in range(2):
            delivery = await send(relay)
            assert delivery.outcome is outcome
        assert server.verbs.count('MAIL') == (0 if outcome is Outcome.REJECTED else 2)
        assert len(server.sessions) == 1
