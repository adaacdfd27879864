"""Content and jobs made to stop a worker: large, slow to read, or impossible to read."""

import time

from arq.constants import job_key_prefix

from mail_outbox.outbox import queue_email
from tests.chaos.arena import Arena, Stage
from tests.chaos.cgroup import memory_limit
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.waiting import until

# None of these is an address; queue_email refuses them, so they come by SQL, as from other
# programs.
RECIPIENTS = (
    '(é)' * 10_660 + '@example.org',
    '"' * 31_000 + '@example.org',
    ',' * 31_000,
    '(' * 31_000 + '@example.org',
    '<' * 31_000,
    '\\' * 31_000 + '@example.org',
    'a@[' * 10_000,
    '=?utf-8?q?' * 3_000 + '@example.org',
)
TEMPLATES = (
    '{% for a in rows %}{% for b in rows %}{% for c in rows %}{% endfor %}{% endfor %}{% endfor %}',
    "{{ 'x' | center(300000000) }}",
    '{{ "%1000000000d" | format(1) }}',
    "{% set n = namespace(x='xxxxxx') %}{% for r in rows %}{% set n.x = n.x ~ n.x %}{% endfor %}",
)
HOSTILE_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, status, next_retry_at)
SELECT recipient, 'Chaos', 'Hello', 'pending', now()
FROM unnest($1::text[]) AS recipient RETURNING id
"""
TEMPLATE_SQL = """
INSERT INTO email_templates (name, subject, body_text)
VALUES (gen_random_uuid()::text, 'Chaos', $1) RETURNING id
"""
TEMPLATE_ROWS = 5000
# A job whose argument is a set of a tuple nested 40 deep: hashing it takes 2**40 steps.
JOB = (
    b'\x80\x02}(X\x01\0\0\0tNX\x01\0\0\0fX\x0a\0\0\0send_email'
    b'X\x01\0\0\0k}X\x02\0\0\0etK\x01X\x01\0\0\0a'
    b'\x8f(' + b')' + b''.join(b'q%ch%c\x86' % (n, n) for n in range(40)) + b'\x90' + b'\x85u.'
)

MEMORY_MAX_BYTES = 1024**3  # of deploy/email-worker.service
LARGE_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, body_html, status, next_retry_at)
SELECT 'large.' || n || '@example.com', 'Report', repeat(repeat('x', 75) || E'\\n', $2),
    repeat(repeat('y', 75) || E'\\n', $2), 'pending', now() - interval '1 hour'
FROM generate_series(1, $1::int) AS n RETURNING id
"""
LINES_OF_9_MB = 9_000_000 // 76
SMALL = 163


async def hostile(arena: Arena) -> list[Row]:
    """Two workers, hostile recipients, templates and jobs among innocent e-mails.

    Only those are dead.
    """
    row = Row('hostile rows, templates and jobs')
    async with arena.stage('hostile') as stage, Producer(stage) as producer:
        innocent = stage.pick(1000, 200)
        await producer.queue(innocent // 2, enqueue=False)
        made = await _queue_hostile(stage)
        await producer.queue(innocent // 2)
        await stage.fleet.start_up(2)
        for round_ in range(stage.pick(10, 3)):
            await _enqueue_hostile(stage, f'hostile-{round_}')
            await producer.queue(20)
        row.faults = len(made)
        stage.expected |= dict.fromkeys(made, ('failed:render',))
        ids = [*producer.ids, *made]
        evidence = await stage.finish(row, ids, deadline_s=stage.pick(120, 90), most_duplicates=0)
        lost = [e['id'] for e in evidence.emails for a in evidence.of(e) if a['outcome'] == 'lost']
        if lost:
            row.problems.append(f'leases were lost over {lost[:5]}: something held a worker')
        held = sum(worker.log.count('loop held') for worker in stage.fleet.workers)
        if held:
            row.problems.append(f'an event loop was held {held} times for more than a second')
    return [row]


async def _queue_hostile(stage: Stage) -> list[int]:
    ids = [record['id'] for record in await stage.pool.fetch(HOSTILE_SQL, RECIPIENTS)]
    data = {'rows': list(range(TEMPLATE_ROWS))}
    for source in TEMPLATES:
        template = await stage.pool.fetchval(TEMPLATE_SQL, source)
        async with stage.pool.acquire() as conn, conn.transaction():
            ids.append(
                await queue_email(
                    conn,
                    recipient='hostile@example.com',
                    template_id=template,
                    template_data=data,
                )
            )
    return ids


async def _enqueue_hostile(stage: Stage, job_id: str) -> None:
    await stage.redis.set(job_key_prefix + job_id, JOB, ex=600)
    await stage.redis.zadd('arq:queue', {job_id: time.time() * 1000})


async def large(arena: Arena) -> list[Row]:
    """A worker under the unit's MemoryMax sends e-mails of 18 MB, and small ones beside them."""
    row = Row('e-mails of 18 MB, MemoryMax=1G')
    name = f'mail-chaos-{arena.stack.postgres.port}'
    async with arena.stage('large') as stage, Producer(stage) as producer:
        with memory_limit(name, MEMORY_MAX_BYTES) as group:
            if group is None:
                row.skipped = 'this machine lets nobody make a memory cgroup'
                return [row]
            count = stage.pick(120, 8)
            big = [r['id'] for r in await stage.pool.fetch(LARGE_SQL, count, LINES_OF_9_MB)]
            small = await producer.queue(SMALL, enqueue=False)
            await stage.fleet.started(stage.fleet.start(wrap=group.wrap))
            began_at = time.monotonic()
            await until(lambda: _all_sent(stage, small), 60, 'the small e-mails are sent')
            row.notes.append(
                f'{SMALL} small e-mails beside them within {time.monotonic() - began_at:.1f} s'
            )
            row.faults = count
            await stage.finish(row, [*big, *small], deadline_s=stage.pick(900, 120))
            if killed := group.kills():
                row.problems.append(f'the kernel killed {killed} processes for their memory')
    return [row]


async def _all_sent(stage: Stage, ids: list[int]) -> bool:
    open_sql = "SELECT NOT EXISTS (SELECT FROM mail_outbox WHERE id = ANY($1) AND status <> 'sent')"
    return bool(await stage.pool.fetchval(open_sql, ids))
