"""Celery's Redis as kombu leaves it, and what an import makes of it, for tests.

Source: kombu/transport/redis.py (_put, QoS.append, _queue_bind)
"""

import json

LEGACY_ROWS = """
INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts, max_attempts,
    next_retry_at, created_at)
VALUES
    ('pending@example.com', 's', 't', 'pending', NULL, NULL, NULL, now()),
    ('sending@example.com', 's', 't', 'sending', 1, 5, now(), now()),
    ('sent@example.com', 's', 't', 'sent', 1, 5, NULL, now()),
    ('dated@example.com', 's', 't', 'sent', 1, 5, NULL, now()),
    ('failed@example.com', 's', 't', 'failed', 5, 5, NULL, now()),
    ('retry@example.com', 's', 't', 'failed', 1, 5, now() - interval '2 days', now()),
    ('cancelled@example.com', 's', 't', 'cancelled', 0, 5, NULL, now())
"""
SEPARATOR = '\x06\x16'


async def queue(redis, *messages, name='celery'):
    """As kombu does: in at the left, out at the right."""
    for raw in messages:
        await redis.lpush(name, raw)


async def bind(redis, name, prefix='', separator=SEPARATOR):
    """As kombu does for a queue with a direct exchange of its own."""
    await redis.sadd(f'{prefix}_kombu.binding.{name}', separator.join([name, '', name]))


async def take(redis, tag, raw, *, key='unacked', index='unacked_index', score=1.0):
    """As kombu does when a worker takes a message."""
    await redis.hset(key, tag, b'[' + raw + b', "", "celery"]')
    await redis.zadd(index, {tag: score})


async def contents(redis):
    """Every key of the database but ours, with what is in it."""
    found = {}
    async for key in redis.scan_iter():
        kind = (await redis.type(key)).decode()
        read = {
            'list': lambda key: redis.lrange(key, 0, -1),
            'hash': redis.hgetall,
            'zset': lambda key: redis.zrange(key, 0, -1, withscores=True),
            'set': redis.smembers,
            'string': redis.get,
        }[kind]
        found[key.decode('latin-1')] = await read(key)
    return found


async def theirs(redis):
    """What is Celery's, of that."""
    return {
        key: value
        for key, value in (await contents(redis)).items()
        if not key.startswith('mail:celery-')
    }


def reply():
    """An answer to `celery inspect`, as a worker sends it."""
    delivery = {'exchange': 'reply.celery.pidbox', 'routing_key': '5f0c'}
    return json.dumps({
        'body': 'e30=', 'content-encoding': 'utf-8', 'content-type': 'application/json',
        'headers': {},
        'properties': {'delivery_info': delivery, 'body_encoding': 'base64', 'delivery_tag': 'x'},
    }).encode()  # fmt: skip
