"""A limit of the fleet on a real Redis: parts add up, follow the load, and survive its absence."""

import asyncio
import json
from typing import Any

import pytest
from redis.exceptions import RedisError

from fleet import rate_shares
from fleet.rate_shares import RateShares
from mail.relay.options import SendingLimits
from mail.route import Relays
from tests.conftest import wait_until
from tests.services.ops_desk import insert
from tests.unit.scripted_relay import ScriptedRelay

BYE = {'QUIT': '221 2.0.0 bye'}


@pytest.fixture
async def server():
    async with ScriptedRelay(BYE) as server:
        yield server


def worker(redis: Any, server: ScriptedRelay, number: int) -> tuple[RateShares, Relays]:
    relays = Relays([server.relay(limits=SendingLimits(max_per_s=100.0))])
    return RateShares(redis, f'worker@{number}', 'd'), relays


def rate_of(relays: Relays) -> Any:
    (relay,) = relays
    return relay.rate


async def turns(workers: Any, number: int, *, wants: Any = ()) -> list[float]:
    for _ in range(number):
        for (shares, relays), wanted in zip(workers, [*wants, *[0] * len(workers)], strict=False):
            rate_of(relays).queued(wanted)
            await shares.exchange(relays)
    return [rate_of(relays).per_s for _, relays in workers]


async def test_parts_follow_what_each_has_to_send_and_add_up_to_the_limit(redis, server):
    workers = [worker(redis, server, number) for number in range(3)]
    assert await turns(workers, 3) == pytest.approx([100 / 3] * 3)
    per_s = await turns(workers, 3, wants=(90, 30, 0))
    assert sum(per_s) == pytest.approx(100)
    assert per_s[0] == pytest.approx(3 * per_s[1], rel=0.02)
    assert 0 < per_s[2] < 1
    assert await redis.pttl('mail:rate:d:primary:wants') > 0


async def test_load_that_moves_exceeds_the_limit_in_no_turn(redis, server):
    workers = [worker(redis, server, number) for number in range(2)]
    await turns(workers, 3, wants=(100, 0))
    for _ in range(3):
        shares, relays = workers[1]
        rate_of(relays).queued(100)
        await shares.exchange(relays)
        assert rate_of(relays).per_s < 1  # until the other has heard of it
        break
    for _ in range(4):
        assert sum(await turns(workers, 1, wants=(100, 100))) <= 100.01
    assert sum(await turns(workers, 1, wants=(100, 100))) == pytest.approx(100)


async def test_worker_that_is_gone_leaves_its_part_to_the_others(redis, server, monkeypatch):
    monkeypatch.setattr(rate_shares, 'GONE_AFTER_MS', 50)
    first, second = worker(redis, server, 1), worker(redis, server, 2)
    await turns([first, second], 2)

    async def has_all() -> bool:
        return await turns([first], 1) == [100]

    await wait_until(has_all)


async def test_without_redis_each_takes_an_equal_part(redis, server, monkeypatch):
    workers = [worker(redis, server, number) for number in range(4)]
    await turns(workers, 3, wants=(100, 0, 0, 0))

    async def gone(*_: Any) -> None:
        raise ConnectionError('gone')

    monkeypatch.setattr(redis, 'eval', gone)
    per_s = []
    for shares, relays in workers:
        with pytest.raises((RedisError, OSError)):
            await shares.exchange(relays)
        per_s.append(rate_of(relays).per_s)
    assert per_s[0] == 25
    assert sum(per_s) <= 100


async def test_relay_without_a_limit_asks_nothing(redis, server, monkeypatch):
    monkeypatch.setattr(redis, 'eval', None)
    await RateShares(redis, 'worker@1', 'd').exchange(Relays([server.relay()]))


async def test_what_a_relay_taught_outlives_the_worker(redis, server):
    first = RateShares(redis, 'worker@1', 'd')
    relays = Relays([server.relay()])
    await first.remember(relays)
    rate_of(relays).recall(12.0, '450 4.7.1 too much mail')
    await first.remember(relays)
    second, fresh = RateShares(redis, 'worker@2', 'd'), Relays([server.relay()])
    await second.remember(fresh)
    assert (rate_of(fresh).per_s, rate_of(fresh).reason) == (12, '450 4.7.1 too much mail')
    assert 0 < await redis.pttl('mail:rate:d:primary:learned') <= 600_000


async def test_two_workers_keep_to_the_limit_of_one_relay(start_worker, env, pool, redis):
    async with ScriptedRelay(BYE, name='eu') as server:
        entry = {
            'name': 'eu', 'host': '127.0.0.1', 'port': server.port, 'tls': 'none', 'max_per_s': 20,
        }  # fmt: skip
        variables = {'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': json.dumps([entry])}
        workers = [start_worker(**variables) for _ in range(2)]
        for started in workers:
            await started.started()
        await wait_until(lambda: halves(redis))
        ids = [await insert(pool) for _ in range(160)]
        began = asyncio.get_running_loop().time()
        for email_id in ids:
            await redis.enqueue_job('send_email', email_id)
        await wait_until(lambda: len(server.bodies) == len(ids))
        took_s = asyncio.get_running_loop().time() - began
        # 8 s at 20 a second; each worker begins with one at once, and may be a second behind.
        assert 6 < took_s < 20
        by = await pool.fetch('SELECT worker, count(*) FROM email_attempts GROUP BY 1')
        assert len(by) == 2


async def halves(redis: Any, name: str = 'eu') -> bool:
    (key,) = await redis.keys(f'mail:rate:*:{name}:wants') or [None]
    return key is not None and await redis.zcard(key) == 2


async def test_limit_of_a_domain_is_shared_by_workers_and_used_up(start_worker, env, pool, redis):
    async with ScriptedRelay(BYE, name='eu') as server:
        entry = {'name': 'eu', 'host': '127.0.0.1', 'port': server.port, 'tls': 'none'}
        variables = {
            'SMTP_HOST': '', 'SMTP_BACKUP_HOST': '', 'RELAYS': json.dumps([entry]),
            'DOMAIN_LIMITS': json.dumps([{'domain': 'example.org', 'max_per_s': 10}]),
        }  # fmt: skip
        for started in [start_worker(**variables) for _ in range(2)]:
            await started.started()
        await wait_until(lambda: halves(redis, '@example.org'))
        ids = [await insert(pool, recipient=f'u{n}@example.org') for n in range(60)]
        began = asyncio.get_running_loop().time()
        for email_id in ids:
            await redis.enqueue_job('send_email', email_id)
        await wait_until(lambda: len(server.bodies) == len(ids))
        took_s = asyncio.get_running_loop().time() - began
        assert 4 < took_s < 25  # 6 s at 10 a second
        assert await pool.fetchval('SELECT max(attempts) FROM outbound_emails') == 1
