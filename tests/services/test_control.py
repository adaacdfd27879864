"""Commands to workers through a real Redis."""

import asyncio
import contextlib
import json

import pytest

from fleet import channel as control
from fleet.channel import REPLY_PREFIX, Handler, ask, command_channel, is_count, listen_for_commands
from tests.conftest import wait_until

HANDLERS = {
    'ping': Handler(lambda _: {'pong': True}),
    'grow': Handler(lambda arguments: {'emails': arguments['by']}, {'by': is_count}),
    'huge': Handler(lambda _: {'text': 'x' * control.MAX_REPLY_CHARS}),
}


@contextlib.asynccontextmanager
async def workers(redis, *names):
    tasks = [asyncio.create_task(listen_for_commands(redis, name, HANDLERS)) for name in names]
    try:
        await wait_until(lambda: hears(redis, len(names)))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hears(redis, number):
    ((_, heard),) = await redis.pubsub_numsub(command_channel(redis))
    return heard == number


async def listeners(redis):
    return {client['id'] for client in await redis.client_list(_type='pubsub')}


async def test_every_worker_replies_and_nobody_is_waited_for_longer(redis):
    async with workers(redis, 'a@host:1', 'b@host:2'):
        asked = await ask(redis, 'ping', timeout_s=60)
        assert asked.replies == [
            {'worker': w, 'done': {'pong': True}} for w in ('a@host:1', 'b@host:2')
        ]
        assert await redis.keys(REPLY_PREFIX + '*') == []


async def test_only_named_workers_obey(redis):
    async with workers(redis, 'a@host:1', 'b@host:2'):
        asked = await ask(
            redis, 'grow', {'by': 2}, workers=['b@host:2', 'gone@host:3'], timeout_s=60
        )
    assert (asked.replies, asked.silent) == ([{'worker': 'b@host:2', 'done': {'emails': 2}}], 0)


async def test_nobody_replies_when_nobody_listens_and_that_is_known_at_once(redis):
    asked = await ask(redis, 'ping', timeout_s=60)
    assert (asked.replies, asked.heard) == ([], 0)


async def test_worker_that_does_not_reply_in_time_is_counted_as_silent(redis):
    async with redis.pubsub() as hung:
        await hung.subscribe(command_channel(redis))
        await wait_until(lambda: hears(redis, 1))
        asked = await ask(redis, 'ping', timeout_s=0.05)
    assert (asked.replies, asked.silent) == ([], 1)


async def test_refusals_come_back_as_replies(redis):
    async with workers(redis, 'a@host:1'):
        (unknown,) = (await ask(redis, 'os.system', {'command': 'ls'}, timeout_s=60)).replies
        (wrong,) = (await ask(redis, 'grow', {'by': -1}, timeout_s=60)).replies
        (huge,) = (await ask(redis, 'huge', timeout_s=60)).replies
    assert unknown['refused'].startswith("unknown command 'os.system'; known: ")
    assert wrong['refused'] == 'grow: by is out of range'
    assert huge['refused'] == 'the answer is too long'


@pytest.mark.parametrize('junk', [b'', b'\x80\x04}.', b'[' * 4000, b'{"id": 1}', b'x' * 100_000])
async def test_worker_obeys_on_after_junk_on_its_channel(redis, junk):
    async with workers(redis, 'a@host:1'):
        await redis.publish(command_channel(redis), junk)
        assert len((await ask(redis, 'ping', timeout_s=60)).replies) == 1


async def test_worker_obeys_again_after_redis_ended_its_connection(redis, monkeypatch):
    monkeypatch.setattr(control, 'RECONNECT_S', 0.01)
    async with workers(redis, 'a@host:1'):
        before = await listeners(redis)
        await redis.client_kill_filter(_type='pubsub')

        async def reconnected():
            return before.isdisjoint(await listeners(redis)) and await hears(redis, 1)

        await wait_until(reconnected)
        assert len((await ask(redis, 'ping', timeout_s=60)).replies) == 1


async def test_replies_that_somebody_else_wrote_are_not_believed(redis, monkeypatch):
    class Fixed:
        hex = 'f' * 32

    monkeypatch.setattr(control, 'uuid4', lambda: Fixed)
    for junk in (
        b'nonsense',
        json.dumps([1]),
        json.dumps({'worker': 7, 'done': {}}),
        json.dumps({'worker': 'x'}),
    ):
        await redis.rpush(REPLY_PREFIX + Fixed.hex, junk)
    async with workers(redis, 'a@host:1'):
        asked = await ask(redis, 'ping', timeout_s=60)
    assert [reply['worker'] for reply in asked.replies] == ['a@host:1']
