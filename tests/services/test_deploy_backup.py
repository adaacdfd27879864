"""Dump, destroy, restore, nothing lost.

The rehearsal of deploy/backup.sh and deploy/restore.sh, and of Redis.

pg_dump has to be the server's version or newer. Debian's is, for Debian's server (see .ci/run), and
there the scripts run; the embedded server comes without one, and there COPY takes its place:
everything else is the same.
"""

import asyncio
import io
import os
import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest
from arq import create_pool

from db.migrate import migrate
from dev.debian import DebianRedis
from dev.valkey import Valkey
from dev.watchdog import Watchdog
from engine.redis_url import redis_settings
from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import insert

HAS_PG_DUMP = 'TEST_DATABASE_URL' in os.environ
TABLES = [
    'email_template_versions',
    'email_template_contents',
    'outbound_emails',
    'email_attempts',
    'email_templates',
    'email_suppressions',
    'mail_switches',
    'cron_runs',
    'service_health',
    'outbox_adoption',
    'table_origins',
    'mail_api_tokens',
    'mail_audit',
    'allowed_senders',
    'email_attachments',
    'mail_api_requests',
    'mail_history',
    'mail_history_progress',
    'email_feedback',
    'mail_webhooks',
    'mail_webhook_deliveries',
    'mail_quotas',
    'mail_quota_use',
    'mail_alerts',
]
IN_PUBLIC_SQL = (
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


async def contents(conn):
    return {
        table: [tuple(row) for row in await conn.fetch(f'SELECT * FROM {table} ORDER BY 1, 2')]
        for table in TABLES
    }


class Scripts:
    """The scripts as an operator runs them."""

    def __init__(self, dsn, directory):
        self.dsn, self.directory = dsn, directory

    def _run(self, *command):
        return subprocess.run(
            command,
            env={'PATH': os.environ['PATH'], 'DATABASE_URL': self.dsn},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    async def backup(self):
        ran = await asyncio.to_thread(self._run, ROOT / 'deploy/backup.sh', self.directory)
        assert ran.returncode == 0, ran.stderr
        self.file = ran.stdout.strip()
        mode = Path(self.file).stat().st_mode  # noqa: ASYNC240 - a local file
        assert mode & 0o077 == 0

    async def restore(self, *options):
        ran = await asyncio.to_thread(self._run, ROOT / 'deploy/restore.sh', *options, self.file)
        assert ran.returncode == 0, ran.stderr


class Copies:
    """The same steps without pg_dump."""

    HOLD = (ROOT / 'deploy/restore.sh').read_text().partition("<<'SQL'\n")[2].partition('\nSQL')[0]

    def __init__(self, dsn, _):
        self.dsn, self.copies = dsn, {}

    async def backup(self):
        conn = await asyncpg.connect(self.dsn)
        async with conn.transaction(isolation='repeatable_read'):
            for table in TABLES:
                self.copies[table] = io.BytesIO()
                await conn.copy_from_table(table, output=self.copies[table], format='binary')
        await conn.close()

    async def restore(self, *options):
        conn = await asyncpg.connect(self.dsn)
        await migrate(conn)
        await conn.execute('DELETE FROM table_origins; DELETE FROM mail_history_progress')
        for table, copy in self.copies.items():
            copy.seek(0)
            await conn.copy_to_table(table, source=copy, format='binary')
        for table in ('outbound_emails', 'email_templates', 'service_health'):
            await conn.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            )
        if '--hold' in options:
            await conn.execute(self.HOLD)
        await conn.close()


@pytest.fixture
async def database(empty_database):
    """One of its own: its tables are dropped."""
    conn = await asyncpg.connect(empty_database.dsn)
    await migrate(conn)
    await conn.close()
    return empty_database


@pytest.fixture
async def outbox(pool):
    """Mail in every state, and something in every table."""
    for number in range(3):
        await insert(pool, recipient=f'due{number}@example.com')
    await insert(pool, recipient='later@example.com', next_retry_at="sql:now() + interval '1 hour'")
    await insert(
        pool, recipient='dead@example.com', status='failed', attempts=5, dead_reason='exhausted'
    )
    await insert(
        pool,
        recipient='retried@example.com',
        status='failed',
        attempts=1,
        next_retry_at='sql:now()',
    )
    await insert(pool, recipient='sent@example.com', status='sent', sent_at='sql:now()')
    await insert(pool, recipient='unknown@example.com', status='uncertain', attempts=1)
    await insert(pool, recipient='held@example.com', status='sending')
    await pool.execute(
        "INSERT INTO email_attempts VALUES (1, now(), 1, 'w', 'deferred', 'rcpt', "
        "'primary', 451, '4.7.1', 'later')"
    )
    await pool.execute(
        "INSERT INTO email_templates (name, subject) VALUES ('welcome', 'Grüße {{ name }}')"
    )
    await pool.execute(
        'INSERT INTO email_template_versions (template_id, version, digest, made_row) '
        "VALUES ('1', 1, sha256('x'), true)"
    )
    await pool.execute(
        "INSERT INTO email_template_contents VALUES ('1', 1, 'default', '{\"files\": {}}')"
    )
    await pool.execute(
        "INSERT INTO email_suppressions (address, reason) VALUES ('no@example.com', 'asked')"
    )
    await pool.execute("INSERT INTO outbox_adoption (phase) VALUES ('finished')")
    await pool.execute(
        "INSERT INTO mail_switches (kind, name, paused_by) VALUES ('cron', 'cleanup', 'me')"
    )
    await pool.execute(
        "INSERT INTO cron_runs (duty, slot, worker, lease_expires_at) VALUES ('x', "
        "now(), 'w', now())"
    )
    await pool.execute("INSERT INTO service_health (service_name, status) VALUES ('mongodb', 'up')")
    await pool.execute("INSERT INTO allowed_senders (pattern) VALUES ('@example.com')")
    await pool.execute(
        'INSERT INTO email_attachments (email_id, position, data) '
        "SELECT id, 0, 'x' FROM outbound_emails WHERE recipient LIKE 'sent%'"
    )
    await pool.execute(
        'INSERT INTO mail_api_tokens (name, token_hash, scopes, created_by) '
        "VALUES ('shop', sha256('x'), '{send}', 'me')"
    )
    await pool.execute(
        'INSERT INTO mail_audit (actor, origin, action, details, email_ids) '
        "VALUES ('shop', '127.0.0.1', 'email.retry', '{\"dry\": false}', '{1, 2}')"
    )
    await pool.execute(
        'INSERT INTO mail_api_requests (owner, idempotency_key, digest, answer) '
        "VALUES ('token:shop', 'k', sha256('x'), '{\"id\": \"1\"}')"
    )
    await pool.execute(
        'INSERT INTO mail_history (span_s, dimension, at, name, outcome, attempts) '
        "VALUES (60, 'all', now(), '', 'accepted', 7)"
    )
    await pool.execute(
        "INSERT INTO email_feedback (report_key, kind, source) VALUES ('k', 'delay', 'dsn')"
    )
    await pool.execute(
        'INSERT INTO mail_webhooks (url, secret, created_by) '
        "VALUES ('https://a.example/', 'w', 'me')"
    )
    await pool.execute(
        'INSERT INTO mail_webhook_deliveries (webhook_id, email_id, event_type, payload) '
        "VALUES (1, 1, 'email.sent', '{}')"
    )
    await pool.execute(
        "INSERT INTO mail_quotas (organization_id, emails_per_day) VALUES ('7', 100);"
        "INSERT INTO mail_quota_use VALUES ('7', current_date, 3);"
        'INSERT INTO mail_alerts (subject, score, is_down, since) '
        "VALUES ('mongodb', 4, true, now())"
    )


@pytest.fixture
async def destroyed(outbox, pool, database, tmp_path):
    """A backup of the outbox, and the database without its tables; what they held."""
    backup = (Scripts if HAS_PG_DUMP else Copies)(database.dsn, tmp_path)
    await backup.backup()
    held = await contents(pool)
    assert all(held.values())
    for row in await pool.fetch(IN_PUBLIC_SQL):
        await pool.execute(f'DROP TABLE {row["relname"]} CASCADE')
    return backup, held


async def test_restored_outbox_is_the_same_and_its_mail_is_delivered_once(
    destroyed, pool, inbox, start_worker
):
    backup, held = destroyed
    await backup.restore()
    assert await contents(pool) == held
    await start_worker().started()
    due = {'due0@example.com', 'due1@example.com', 'due2@example.com', 'retried@example.com'}
    await wait_until(lambda: due <= {entry['rcpt_to'][0] for entry in inbox.accepted()})
    assert sorted(e['rcpt_to'][0] for e in inbox.accepted() if e['rcpt_to'][0] in due) == sorted(
        due
    )
    assert not inbox.accepted('later@example.com') + inbox.accepted('sent@example.com')
    assert await insert(pool) > max(row[0] for row in held['outbound_emails'])


if HAS_PG_DUMP:

    async def test_restore_refuses_while_a_worker_is_connected(destroyed, database):
        backup, _ = destroyed
        worker = await asyncpg.connect(
            database.dsn, server_settings={'application_name': 'worker@host:42'}
        )
        with pytest.raises(AssertionError, match='worker@host:42; stop the workers first'):
            await backup.restore()
        await worker.close()


async def test_restore_with_hold_sends_nothing_and_loses_nothing(destroyed, pool):
    backup, held = destroyed
    await backup.restore('--hold')
    rows = {
        row['recipient']: row['status'] for row in await pool.fetch('SELECT * FROM outbound_emails')
    }
    assert len(rows) == len(held['outbound_emails'])
    assert {who for who, status in rows.items() if status == 'uncertain'} == {
        *(f'due{number}@example.com' for number in range(3)),
        *('later@example.com', 'retried@example.com', 'unknown@example.com', 'held@example.com'),
    }
    assert (rows['sent@example.com'], rows['dead@example.com']) == ('sent', 'failed')
    assert (
        await pool.fetchval('SELECT count(*) FROM outbound_emails WHERE next_retry_at IS NOT NULL')
        == 0
    )


async def test_restored_redis_has_every_job_and_appends_again(tmp_path):
    """As docs/deployment.md tells.

    Without the append-only file first, which would win over the backup.
    """
    watchdog = Watchdog()
    program = DebianRedis if 'TEST_ARQ_REDIS_URL' in os.environ else Valkey
    server = program(tmp_path / 'redis', watchdog, 'loopback')
    server.start()
    try:
        redis = await create_pool(redis_settings(server.url(1)))
        for number in range(50):
            await redis.enqueue_job('send_email', number, _job_id=f'job-{number}', _defer_by=number)
        queued = await redis.zrange('arq:queue', 0, -1, withscores=True)
        await redis.save()
        await redis.aclose()
        shutil.copy(server.directory / 'dump.rdb', tmp_path / 'queue.rdb')
        server.kill()
        shutil.rmtree(server.directory)
        server.directory.mkdir()

        shutil.copy(tmp_path / 'queue.rdb', server.directory / 'dump.rdb')
        command = server.command

        def without_appending():
            asked = command()
            asked.argv.extend(['--appendonly', 'no'])
            return asked

        server.command = without_appending
        server.start()
        redis = await create_pool(redis_settings(server.url(1)))
        await redis.config_set('appendonly', 'yes')
        await wait_until(lambda: rewritten(redis), what='the append-only file')
        await redis.aclose()
        server.command = command
        server.stop()
        server.start()
        redis = await create_pool(redis_settings(server.url(1)))
        assert await redis.zrange('arq:queue', 0, -1, withscores=True) == queued
        assert await redis.exists(*(f'arq:job:job-{number}' for number in range(50))) == 50
        await redis.aclose()
    finally:
        server.stop()
        watchdog.close()


async def rewritten(redis):
    told = await redis.info('persistence')
    return (
        told['aof_enabled']
        and not told['aof_rewrite_in_progress']
        and not told['aof_rewrite_scheduled']
    )
