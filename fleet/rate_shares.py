"""Each worker's share of a limit that holds for the fleet, agreed on through Redis once a second.

A worker says how much it has to send by each limited relay, and gets as large a part of the limit
as its part of what all have to send. So no e-mail costs a round trip, and the parts add up to the
limit. A part that grows is used a turn later: until then the others may still use theirs.

Without Redis each worker takes the limit divided by the workers that were there last. Two sorted
sets for each limit, mail:rate:<database>:<relay>:wants and ...:seen, end by themselves; so does
...:learned, what a relay has taught.
"""

import asyncio
import contextlib
import json
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from delivery.tunables import Tunables
from engine.background import is_cancelled
from mail.relay.learned_rate import FORGET_S, LearnedRate
from mail.route import Relays

EVERY_S, REMEMBER_EVERY = 1.0, 5
MOST_PER_S = 1e6
GONE_AFTER_MS = 5000  # a worker that said nothing for so long has no part any more
# Each e-mail counts so much; and so does being there, so that whoever has nothing to send can begin
# at once when something comes.
EMAIL, PRESENCE = 100, 20

# ARGV: who asks, GONE_AFTER_MS, and what he wants of each. Returns for each limit what all want,
# and how many they are.
SHARE_LUA = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = {}
for i = 1, #KEYS, 2 do
    local wants, seen = KEYS[i], KEYS[i + 1]
    redis.call('ZADD', wants, ARGV[2 + (i + 1) / 2], ARGV[1])
    redis.call('ZADD', seen, now, ARGV[1])
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now - ARGV[2])) do
        redis.call('ZREM', wants, gone)
        redis.call('ZREM', seen, gone)
    end
    local sum, count = 0, 0
    local all = redis.call('ZRANGE', wants, 0, 999, 'WITHSCORES')
    for j = 2, #all, 2 do
        sum = sum + all[j]
        count = count + 1
    end
    redis.call('PEXPIRE', wants, 10 * ARGV[2])
    redis.call('PEXPIRE', seen, 10 * ARGV[2])
    told[i], told[i + 1] = math.floor(sum), count
end
return told
"""


class RateShare:
    """One worker's part of one limit.

    Attributes:
        part: 0 to 1, as it is used now.
        workers: How many share the limit, as far as is known.
    """

    def __init__(self) -> None:
        self.part = 1.0
        self.workers = 1
        self._told = 1.0

    def agreed(self, mine: int, of_all: int, workers: int) -> None:
        """Take over what Redis told."""
        told = min(1.0, mine / max(mine, of_all))
        self.part = min(told, self._told)
        self._told, self.workers = told, max(1, workers)

    def alone(self) -> None:
        """Redis does not answer: take no more than everybody can have."""
        self._told = self.part = min(self.part, 1.0 / self.workers)


class RateShares:
    """One worker's parts of all limits, and what it asks for."""

    def __init__(self, redis: ArqRedis, worker: str, database: str) -> None:
        self._redis, self._worker, self._database = redis, worker, database
        self._shares: dict[str, RateShare] = {}
        self._known: set[LearnedRate] = set()  # what was learned of these before is recalled

    async def exchange(self, relays: Relays) -> None:
        """Agree on the parts of these relays' limits; without any, nothing is asked.

        Raises:
            redis.RedisError, OSError: Redis does not answer; each has its safe part then.
        """
        limited = {relay.name: relay.rate for relay in relays if relay.rate.configured}
        limited |= {
            f'@{bucket.limit.name}': bucket.rate
            for bucket in relays.domains.buckets
            if bucket.rate.configured
        }
        self._shares = {name: self._shares.get(name) or RateShare() for name in limited}
        if not limited:
            return
        wants = [EMAIL * rate.wanted() + PRESENCE for rate in limited.values()]
        keys = [self._key(name, kind) for name in limited for kind in ('wants', 'seen')]
        arguments = (self._worker, str(GONE_AFTER_MS), *map(str, wants))
        try:
            async with asyncio.timeout(EVERY_S):
                asked: Any = self._redis.eval(SHARE_LUA, len(keys), *keys, *arguments)
                told = await asked
        except (RedisError, OSError):  # TimeoutError is one
            for name, rate in limited.items():
                self._shares[name].alone()
                rate.take_part(self._shares[name].part, self._shares[name].workers)
            raise
        for number, (name, rate) in enumerate(limited.items()):
            share = self._shares[name]
            share.agreed(wants[number], int(told[2 * number]), int(told[2 * number + 1]))
            rate.take_part(share.part, share.workers)

    async def remember(self, relays: Relays) -> None:
        """Recall what was learned of relays that are new here, and write down what is learned.

        It is kept as long as a worker would remember it, over restarts of all of them.

        Raises:
            redis.RedisError, OSError: Redis does not answer.
        """
        for relay in relays:
            rate, key = relay.rate, self._key(relay.name, 'learned')
            if rate not in self._known:
                per_s, said = _read_learned(await self._redis.get(key))
                rate.recall(per_s, said)
            elif rate.is_learned:
                told = json.dumps([round(rate.per_s, 2), rate.reason])
                await self._redis.set(key, told, px=int(FORGET_S * 1000))
        self._known = {relay.rate for relay in relays}

    def _key(self, name: str, kind: str) -> str:
        return f'mail:rate:{self._database}:{name}:{kind}'


def _read_learned(stored: bytes | None) -> tuple[float, str]:
    """Read what a worker wrote; nothing for what somebody else did."""
    try:
        per_s, said = json.loads(stored or b'[0, ""]')
        if isinstance(per_s, int | float) and 0 < per_s < MOST_PER_S and isinstance(said, str):
            return float(per_s), said[:200]
    except (TypeError, ValueError, RecursionError):
        pass
    return 0.0, ''


async def keep_sharing(shares: RateShares, tunables: Tunables) -> None:
    """Agree once a second; until cancelled."""
    turn = 0
    while not is_cancelled():
        with contextlib.suppress(RedisError, OSError):  # a safe part is taken meanwhile
            await shares.exchange(tunables.relays)
            if turn % REMEMBER_EVERY == 0:
                await shares.remember(tunables.relays)
        turn += 1
        await asyncio.sleep(EVERY_S)
