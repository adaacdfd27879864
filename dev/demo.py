"""`make demo`: the main job, end to end, on real servers.

Starts the embedded stack, migrates, starts `arq worker.WorkerSettings` as a process of its own,
queues e-mails of every kind the way an application does, and compares what the outbox says with
what the SMTP inbox holds.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from arq import create_pool
from arq.connections import ArqRedis
from rich.console import Console
from rich.table import Table

from db.migrate import migrate
from db.mongo import open_mongo
from dev import env_file
from dev.demo_evidence import Found, inbox_entries, verify
from dev.demo_kinds import Kind, kinds
from dev.inbox_control import InboxControl
from dev.stack import Stack
from engine.redis_url import redis_settings
from mail_outbox.attachments import store_attachments
from mail_outbox.outbox import queue_email

# The backoff is shortened so that nobody waits a minute for a retry. Nothing else differs from
# production.
DEMO_SETTINGS = {'EMAIL_RETRY_BASE_DELAY': '0.5', 'LOG_FORMAT': 'json'}
DEADLINE_S = 30.0

console = Console(width=None if sys.stdout.isatty() else 140)


async def demo(
    stack: Stack, stages: dict[str, float], worker: 'subprocess.Popen[bytes]', log_path: Path
) -> bool:
    """Run the demo on a started stack. Returns whether everything was as expected."""
    conn = await asyncpg.connect(stack.postgres.url)
    redis = await create_pool(redis_settings(stack.env['ARQ_REDIS_URL']))
    try:
        await _stage('migrate', stages, lambda: migrate(conn))
        await _stage('start the worker', stages, lambda: _worker_started(worker, log_path))
        found = await _stage(
            'queue and deliver', stages, lambda: _send_everything(stack, conn, redis)
        )
    finally:
        await redis.aclose()
        await conn.close()
    _show(found)
    return all(not f.problems for f in found)


T = TypeVar('T')


async def _stage(name: str, stages: dict[str, float], work: Callable[[], Awaitable[T]]) -> T:
    started = time.monotonic()
    result = await work()
    stages[name] = time.monotonic() - started
    return result


def _start_worker(stack: Stack, log_path: Path) -> 'subprocess.Popen[bytes]':
    command = [str(Path(sys.executable).with_name('arq')), 'worker.WorkerSettings']
    # Nothing of the caller's environment or .env: the demo must never touch another database.
    inherited = {name: os.environ[name] for name in ('PATH', 'HOME', 'LANG') if name in os.environ}
    env = inherited | stack.env | DEMO_SETTINGS | {'PYTHONPATH': str(Path(__file__).parent.parent)}
    with log_path.open('wb') as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=stack.data_dir)


async def _worker_started(worker: 'subprocess.Popen[bytes]', log_path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while 'worker.started' not in (log := log_path.read_text()):  # noqa: ASYNC240 - a small local file
        if worker.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f'the worker did not start:\n{log[-2000:]}')
        await asyncio.sleep(0.05)


TEMPLATE_SQL = """
INSERT INTO email_templates (name, subject, body_text, body_html)
VALUES ('welcome', 'Welcome, {{ name }}', 'Hello {{ name }}.', '<p>Hello {{ name }}.</p>')
ON CONFLICT (name) DO UPDATE SET subject = excluded.subject RETURNING id
"""


async def _send_everything(stack: Stack, conn: asyncpg.Connection, redis: ArqRedis) -> list[Found]:
    control = InboxControl(stack.inbox.directory)
    mongo = open_mongo(stack.env['MONGODB_URL'], stack.env['MONGODB_DATABASE'], 5)
    before = len(inbox_entries(stack.inbox.directory))
    all_kinds = kinds(await conn.fetchval(TEMPLATE_SQL))
    ids: dict[int, Kind] = {}
    for primary_down in (False, True):
        batch = [kind for kind in all_kinds if kind.primary_down is primary_down]
        control.listen('primary', on=not primary_down)
        for kind in batch:
            stored: dict[str, Any] = {'attachments': kind.attachments}
            if kind.in_mongo:
                stored = {'content_id': await store_attachments(mongo, kind.attachments)}
            async with conn.transaction():
                parts = (
                    {'subject': kind.name, 'body_text': f'Hello, this is: {kind.name}.'}
                    | kind.parts
                    | kind.times()
                )
                email_id = await queue_email(conn, recipient=kind.recipient, **stored, **parts)
            await redis.enqueue_job('send_email', email_id, _defer_by=kind.job_delay_s or None)
            ids[email_id] = kind
            console.print(f'  queued {email_id:>3}  {kind.name}')
        await _wait_until_final(conn, ids)
    control.listen('primary', on=True)
    entries = inbox_entries(stack.inbox.directory)[before:]
    rows = await conn.fetch(
        'SELECT * FROM outbound_emails WHERE id = ANY($1) ORDER BY id', list(ids)
    )
    mongo.client.close()
    return [verify(ids[row['id']], dict(row), entries, stack.inbox.directory) for row in rows]


WAITING_SQL = """
SELECT count(*) FROM outbound_emails
WHERE id = ANY($1) AND NOT (status IN ('sent', 'expired') OR (status = 'failed'
    AND next_retry_at IS NULL))
"""


async def _wait_until_final(conn: asyncpg.Connection, ids: dict[int, Kind]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    shown = -1
    while waiting := await conn.fetchval(WAITING_SQL, list(ids)):
        if waiting != shown:
            console.print(f'  {len(ids) - waiting} of {len(ids)} done')
            shown = waiting
        if time.monotonic() > deadline:
            console.print(f'[red]{waiting} not done within {DEADLINE_S:.0f} s')
            return
        await asyncio.sleep(0.1)
    console.print(f'  {len(ids)} of {len(ids)} done')


def _show(found: list[Found]) -> None:
    table = Table(title='What became of each kind: the outbox, and what the inbox holds')
    for column in ('id', 'kind', 'outbox', 'attempts', 'relay', 'reply', 'inbox', 'as expected'):
        table.add_column(column)
    for f in found:
        verdict = '[green]yes' if not f.problems else '[red]' + '; '.join(f.problems)
        table.add_row(
            str(f.email_id),
            f.kind,
            f.status,
            str(f.attempts),
            f.relay or '-',
            f.reply,
            f.inbox,
            verdict,
        )
    console.print(table)


def _look_around(stack: Stack, env_path: Path) -> None:
    console.print(f"""
The stack is still running. In another terminal:

  set -a; . {env_path}; set +a
  .venv/bin/python -m ops status            what the fleet is doing (the worker still runs)
  .venv/bin/python -m ops show 1            one e-mail: row, attempts, what happens next
  .venv/bin/arq worker.WorkerSettings       another worker
  ls {stack.inbox.directory}                the mail

Ctrl-C here stops everything.""")


def main() -> int:
    """Run the demo. Returns the exit status: 0 when everything was as expected."""
    parser = argparse.ArgumentParser(prog='python -m dev.demo', description=__doc__)
    parser.add_argument(
        '--keep', action='store_true', help='leave the stack running and say how to look around'
    )
    keep = parser.parse_args().keep
    stages: dict[str, float] = {}
    started = time.monotonic()
    console.print('starting PostgreSQL, Valkey, MongoDB and the SMTP inbox ...')
    with Stack() as stack:
        stages['start the servers'] = time.monotonic() - started
        log_path = stack.data_dir / 'worker.log'
        worker = _start_worker(stack, log_path)
        try:
            fine = asyncio.run(demo(stack, stages, worker, log_path))
            console.print(
                'seconds: ' + ', '.join(f'{name} {seconds:.1f}' for name, seconds in stages.items())
            )
            if keep:
                env_path = stack.data_dir / 'demo.env'
                env_file.write(env_path, stack.env | DEMO_SETTINGS)
                _look_around(stack, env_path)
                try:
                    while True:
                        time.sleep(3600)
                except KeyboardInterrupt:
                    console.print('stopping')
        finally:
            worker.terminate()
            worker.wait()
    return 0 if fine else 1


if __name__ == '__main__':
    sys.exit(main())
