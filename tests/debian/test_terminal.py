"""The commands in a real terminal, at 80 and at 160 columns, compared with what they printed.

UPDATE_SNAPSHOTS=1 writes tests/debian/snapshots anew: whoever changes what is printed looks there.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from dev.terminal import Terminal
from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import closed_port, insert
from tests.services.test_ops_interrupted import WAITS_FOR_A_ROW

SNAPSHOTS = Path(__file__).parent / 'snapshots'
OPS = f'{sys.executable} -m ops'
WIDTHS = (80, 160)
# What is another each time, and what it is called in a snapshot.
NORMAL = (
    (re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ'), 'DATE'),
    (re.compile(r'\d\d:\d\d:\d\d(\.\d+)?'), 'TIME'),
    (re.compile(r'\d+(\.\d+)? (s|min|h|d)\b'), 'LENGTH'),
    (re.compile(r'\d+(\.\d+)? (ms|MiB)\b'), r'N \2'),
    (re.compile(r'mail-1@[^\s,]+'), 'mail-1@HOST'),
    (re.compile(r'127\.0\.0\.1:\d+(/\w+)?'), 'PLACE'),
    (re.compile(r'\b[0-9a-f]{12}\b'), 'DIGEST'),
    (re.compile(r'[▁▂▃▄▅▆▇█]+'), 'RATES'),
    (re.compile(r'(?<=\S) {2,}'), '  '),
    (re.compile(r' +$', re.MULTILINE), ''),
)
DEAD = {
    'status': 'failed', 'attempts': 1, 'smtp_code': 550, 'enhanced_code': '5.1.1',
    'dead_reason': 'rejected', 'relay': 'primary',
    'last_error': '550 5.1.1 <anna@example.com>: Recipient address rejected: no such user here; '
    'see https://relay.example/why for what this means and whom to ask',
}  # fmt: skip
ROWS = (
    {'subject': 'Your receipt 41479', 'email_type': 'receipt', 'status': 'sent', 'attempts': 1,
     'sent_at': 'sql:now()', 'relay': 'primary', 'smtp_code': 250, 'enhanced_code': '2.0.0'},
    {'recipient': 'Anna <anna@post.example>', 'subject': 'Reset your password',
     'email_type': 'password_reset', 'next_retry_at': "sql:now() + interval '2 hours'"},
    DEAD | {'subject': 'You are invited to the project Harbour', 'email_type': 'invitation'},
    {'recipient': 'b@example.org', 'subject': 'News', 'email_type': 'newsletter', 'status': 'held'},
)  # fmt: skip


def normal(screen: str) -> str:
    for what, called in NORMAL:
        screen = what.sub(called, screen)
    return screen.rstrip() + '\n'


def compare(name: str, screen: str) -> None:
    path = SNAPSHOTS / f'{name}.txt'
    seen = normal(screen)
    if 'UPDATE_SNAPSHOTS' in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen)
    assert seen == path.read_text(), f'{path} differs; UPDATE_SNAPSHOTS=1 writes it anew'


@pytest.fixture
async def filled(pool):
    ids = [
        await insert(pool, message_id=f'<m{n}@example.com>', **row) for n, row in enumerate(ROWS)
    ]
    assert ids == [1, 2, 3, 4]
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, '
        'smtp_code, enhanced_code, reply, duration_ms) VALUES '
        "(3, now(), 1, 'mail-1@server:42', 'rejected', 'rcpt', 'primary', 550, '5.1.1', $1, 12)",
        DEAD['last_error'],
    )
    await pool.execute(
        'INSERT INTO mail_switches (kind, name, reason, paused_by) '
        "VALUES ('email_type', 'newsletter', 'the template has a wrong date', 'lena')"
    )


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('help', '--help'), ('find-help', 'find --help'), ('find', 'find'),
        ('failed', 'failed'), ('show', 'show 3'), ('explain', 'explain 3'),
        ('status', 'status -t 0.2'), ('retry', 'retry --status dead --dry-run'),
        ('control-ls', 'control ls'), ('mistake', 'statsu'),
    ],
    ids=lambda value: value if ' ' not in value else '',
)  # fmt: skip
def test_command_prints_what_it_printed(env, filled, width, name, words):
    with Terminal(width, 50, ROOT, env) as terminal:
        screen = terminal.run(f'{OPS} {words}')
    assert max(map(len, screen.splitlines())) <= width
    compare(f'{name}-{width}', screen)


def test_colour_is_by_meaning_and_no_color_takes_it_away(env, filled):
    with Terminal(100, 50, ROOT, env) as terminal:
        terminal.run(f'{OPS} failed')
        assert '\x1b[1m\x1b[31mdead' in terminal.seen(with_styles=True)
        terminal.run(f'NO_COLOR=1 {OPS} failed')
        assert '\x1b[31m' not in terminal.seen(with_styles=True)


def ended(terminal: Terminal) -> None:
    terminal.until('ready>')


@pytest.mark.parametrize(('width', 'height'), [(80, 24), (160, 50)])
async def test_top_is_moved_about_in_by_keys(env, filled, start_worker, width, height):
    await start_worker(WORKER_NAME='mail-1').started()
    await asyncio.to_thread(move_about, env, width, height)


def move_about(env, width, height):
    with Terminal(width, height, ROOT, env) as terminal:
        terminal.type(f'clear; {OPS} top')
        terminal.until('e-mails/s')
        screen = terminal.until('rejected')
        assert max(map(len, screen.splitlines())) <= width
        terminal.press('?')
        compare(f'top-help-{width}', terminal.settled('Nothing is done before'))
        terminal.press('Escape')
        terminal.until('last failures')
        terminal.press('w')
        compare(f'top-wrong-{width}', terminal.settled('What is wrong'))
        terminal.press('Escape')
        terminal.until('last failures')
        terminal.press('G', 'Enter')  # the last line is the failure
        compare(f'top-mail-{width}', terminal.settled('rejected: primary'))
        terminal.press('e')
        compare(f'top-explain-{width}', terminal.settled('refused it for good'))
        terminal.press('Escape', 'Escape')
        terminal.until('last failures')
        terminal.press('g', 'Enter')
        terminal.until('log level')
        terminal.resize(60, 12)
        terminal.until('escape back')
        assert len(terminal.seen().splitlines()) <= 12
        terminal.press('q')
        ended(terminal)


async def test_top_pauses_and_resumes_only_after_it_was_confirmed(env, filled, pool, start_worker):
    await start_worker(WORKER_NAME='mail-1').started()

    async def paused() -> list[str]:
        rows = await pool.fetch("SELECT name FROM mail_switches WHERE kind = 'queue'")
        return [row['name'] for row in rows]

    with Terminal(100, 40, ROOT, env) as terminal:
        terminal.type(f'clear; {OPS} top')
        await asyncio.to_thread(terminal.until, 'last failures')
        terminal.press('Tab')  # the first queue
        terminal.press('p')
        await asyncio.to_thread(terminal.until, 'Reason (enter does it')
        terminal.press('Enter')  # no reason: nothing
        terminal.press('Escape')
        await asyncio.to_thread(terminal.until, 'Nothing was done.')
        assert await paused() == []
        terminal.press('p')
        terminal.type('moving')
        await asyncio.to_thread(terminal.until, 'p resumes it')
        (name,) = await paused()
        terminal.press('p')
        await asyncio.to_thread(terminal.until, f'Resume the queue {name}')
        terminal.press('y')
        await asyncio.to_thread(terminal.until, 'is resumed')
        assert await paused() == []
        terminal.press('q')
        await asyncio.to_thread(ended, terminal)
    actions = await pool.fetch('SELECT action, details FROM mail_audit ORDER BY id')
    assert [(row['action'], row['details']['word']) for row in actions] == [
        ('ops top', 'pause'), ('ops top', 'resume'),
    ]  # fmt: skip


def test_top_says_since_when_a_server_is_away(env, filled, stack):
    with Terminal(100, 30, ROOT, env) as terminal:
        terminal.type(f'clear; {OPS} top --interval 0.5')
        terminal.until('last failures')
        stack.valkey.freeze()
        try:
            screen = terminal.until('Redis has not answered since')
            assert 'workers and queues are of then' in screen
            terminal.press('w')
            terminal.until('What is wrong')
        finally:
            stack.valkey.thaw()
        terminal.press('q')
        ended(terminal)


LOCK_SQL = 'SELECT 1 FROM outbound_emails WHERE id = $1 FOR UPDATE'


async def test_retry_of_many_shows_rate_and_time_left_and_interrupt_tells_what_was_done(env, pool):
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts) '
        "SELECT 'a@example.com', 'Hello', 'Hello.', 'failed', 1 FROM generate_series(1, 60000)"
    )
    many = 'retry --status failed --limit 60000 --yes'
    with Terminal(80, 24, ROOT, env) as terminal:
        async with pool.acquire() as late, late.transaction():
            await late.execute(LOCK_SQL, 59_000)
            async with pool.acquire() as early, early.transaction():
                await early.execute(LOCK_SQL, 30_000)
                terminal.type(f'clear; {OPS} {many}; echo "end $?"')
                await wait_until(lambda: pool.fetchval(WAITS_FOR_A_ROW))
                await asyncio.sleep(1.2)  # what takes less than a second is not told
            screen = await asyncio.to_thread(terminal.until, ' left')
            assert re.search(r'\d+ of 60000, \d+/s, \d+ s left', screen)
            terminal.press('C-c')
            await asyncio.sleep(0.5)  # the signal is on its way; nothing tells that it has come
        screen = await asyncio.to_thread(terminal.until, 'end 130')
    due = await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'pending'")
    assert 0 < due < 60_000
    assert f'{due} e-mails due now' in screen
    assert 'interrupted; run it again to go on' in screen


async def test_top_without_servers_starts_and_says_which_are_away(env):
    nobody = closed_port()
    away = env | {
        'DATABASE_URL': f'postgresql://127.0.0.1:{nobody}/mail',
        'ARQ_REDIS_URL': f'redis://127.0.0.1:{nobody}/1',
    }

    def look() -> None:
        with Terminal(100, 30, ROOT, away) as terminal:
            terminal.type(f'clear; {OPS} top')
            screen = terminal.until('worker: unknown')
            assert 'PostgreSQL at' in screen
            assert 'Redis at' in screen
            terminal.press('q')
            ended(terminal)

    await asyncio.to_thread(look)
