"""A worker whose templates are hostile.

They are dead with a reason, and no other e-mail waits for them.
"""

import psutil

from mail_outbox.outbox import queue_email
from tests.conftest import wait_until

ADD_TEMPLATE = (
    'INSERT INTO email_templates (name, body_text) VALUES (gen_random_uuid()::text, $1) '
    'RETURNING id'
)
HOSTILE = {
    (
        '{% for a in rows %}{% for b in rows %}{% for c in rows %}{% endfor %}{% endfor %}{% '
        'endfor %}'
    ): 'processor time',
    (
        '{% macro m(n) %}{% if n < 60 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro '
        '%}{{ m(0) }}'
    ): 'processor time',
    (
        "{% set n = namespace(x='xxxxxx') %}{% for r in rows %}{% set n.x = n.x ~ n.x %}{% "
        'endfor %}{{ n.x }}'
    ): 'memory',
    '{{ "%1000000000d" | format(1) }}': 'memory',
    "{{ 'x' | center(300000000) }}": 'too large',
}


def renderers_of(worker):
    children = psutil.Process(worker.process.pid).children()
    return [
        child
        for child in children
        if any('mail.template.renderer' in part for part in child.cmdline())
    ]


async def queue(pool, source, recipient, data):
    async with pool.acquire() as conn, conn.transaction():
        template = await conn.fetchval(ADD_TEMPLATE, source)
        return await queue_email(
            conn, recipient=recipient, subject='x', template_id=template, template_data=data
        )


async def test_hostile_templates_are_dead_and_all_others_are_sent(pool, start_worker, inbox):
    data = {'rows': list(range(5000))}
    hostile = [
        (await queue(pool, source, 'hostile@example.com', data), why)
        for source, why in HOSTILE.items()
    ]
    innocent = [
        await queue(pool, 'Dear {{ rows | length }}', f'{n}@example.org', data) for n in range(40)
    ]
    worker = await start_worker().started()
    await wait_until(
        lambda: sum(len(inbox.accepted(f'{n}@example.org')) for n in range(40)) == len(innocent)
    )
    for email_id, why in hostile:
        find = (
            'SELECT dead_reason, last_error FROM outbound_emails WHERE id = $1 AND '
            'dead_reason IS NOT NULL'
        )
        found = await wait_until(
            lambda find=find, email_id=email_id: pool.fetchrow(find, email_id), what=why
        )
        assert found['dead_reason'] == 'render'
        assert why in found['last_error']
    assert inbox.accepted('hostile@example.com') == []
    assert worker.process.poll() is None
    assert 'lease.lost' not in worker.log


async def test_renderer_begins_with_the_first_template_and_ends_with_its_worker(
    pool, start_worker, inbox
):
    worker = await start_worker().started()
    async with pool.acquire() as conn, conn.transaction():
        await queue_email(conn, recipient='plain@example.com', subject='x', body_text='x')
    await wait_until(lambda: inbox.accepted('plain@example.com'))
    assert renderers_of(worker) == []
    await queue(pool, 'Dear {{ name }}', 'template@example.com', {'name': 'Anna'})
    await wait_until(lambda: inbox.accepted('template@example.com'))
    (renderer,) = renderers_of(worker)
    worker.process.terminate()
    assert await worker.ended() == 0
    await wait_until(lambda: not renderer.is_running())


async def test_renderer_of_a_killed_worker_ends_by_itself(pool, start_worker, inbox):
    worker = await start_worker().started()
    await queue(pool, 'Dear {{ name }}', 'template@example.com', {'name': 'Anna'})
    await wait_until(lambda: inbox.accepted('template@example.com'))
    (renderer,) = renderers_of(worker)
    worker.process.kill()
    await wait_until(lambda: not renderer.is_running() or renderer.status() == psutil.STATUS_ZOMBIE)
