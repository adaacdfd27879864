"""What `ops doctor` asks PostgreSQL about itself and about rows that stand where none should.

Every function raises asyncpg.PostgresError or OSError when PostgreSQL does not answer.
"""

from typing import TYPE_CHECKING

import asyncpg

from db.states import HAS_NEXT_ATTEMPT, IS_SENDING, IS_TRIED
from db.times import Row
from mail_outbox.attachments import COLLECTION
from mail_outbox.states import DeadReason

if TYPE_CHECKING:  # the driver is imported by whoever has a MongoDB
    from db.mongo import Mongo

TABLES = (
    'email_template_versions', 'email_template_contents',
    'outbound_emails', 'email_attempts', 'email_templates', 'email_suppressions',
    'email_type_suppressions',
    'mail_switches', 'cron_runs', 'service_health', 'sessions', 'refresh_tokens',
    'outbox_adoption', 'table_origins', 'mail_api_tokens', 'mail_audit', 'mail_api_requests',
    'allowed_senders', 'email_attachments', 'mail_history', 'mail_history_progress',
    'mail_desk_sessions', 'email_feedback', 'mail_webhooks', 'mail_webhook_deliveries',
    'mail_quotas', 'mail_quota_use', 'mail_alerts',
)  # fmt: skip

# Those that the migrations make and the statements of this program need; a test holds them against
# a fresh schema.
INDEXES = (
    'email_template_versions_pkey', 'email_template_contents_pkey',
    'outbound_emails_created', 'outbound_emails_due', 'outbound_emails_failed',
    'outbound_emails_final', 'outbound_emails_held', 'outbound_emails_idempotency',
    'outbound_emails_leased', 'outbound_emails_other',
    'outbound_emails_recipient', 'outbound_emails_several',
    'outbound_emails_suspect', 'outbound_emails_tenants', 'outbound_emails_unscheduled',
    'email_attempts_pkey',
    'email_attempts_started', 'email_attempts_recorded', 'email_suppressions_pkey',
    'email_type_suppressions_pkey',
    'cron_runs_pkey',
    'service_health_checked', 'mail_switches_pkey', 'outbox_adoption_pkey',
    'table_origins_pkey', 'mail_api_tokens_pkey', 'mail_api_tokens_token_hash_key',
    'mail_api_tokens_name', 'mail_audit_pkey', 'mail_audit_at', 'mail_audit_request',
    'mail_api_requests_pkey', 'mail_api_requests_created',
    'allowed_senders_once', 'email_attachments_pkey',
    'mail_history_pkey', 'mail_history_progress_pkey', 'mail_desk_sessions_pkey',
    'email_feedback_pkey', 'email_feedback_once', 'email_feedback_email', 'email_feedback_received',
    'email_feedback_open', 'mail_webhooks_pkey', 'mail_webhook_deliveries_pkey',
    'mail_webhook_deliveries_due', 'mail_webhook_deliveries_order',
    'mail_webhook_deliveries_dying', 'mail_webhook_deliveries_occurred',
    'mail_quotas_pkey', 'mail_quota_use_pkey', 'mail_alerts_pkey',
)  # fmt: skip

# What a worker does to each table.
RIGHTS = {
    'mail_outbox': ('SELECT', 'UPDATE', 'DELETE'),
    'email_attempts': ('SELECT', 'INSERT', 'UPDATE', 'DELETE'),
    'email_templates': ('SELECT',),
    'email_template_versions': ('SELECT',),
    'email_template_contents': ('SELECT',),
    'cron_runs': ('SELECT', 'INSERT', 'UPDATE'),
    'service_health': ('INSERT',),
    'outbox_adoption': ('SELECT',),
    'table_origins': ('SELECT',),
    'mail_switches': ('SELECT',),
    'email_suppressions': ('SELECT', 'INSERT', 'UPDATE'),
    'email_type_suppressions': ('SELECT',),
    'email_feedback': ('SELECT', 'INSERT', 'UPDATE', 'DELETE'),
    'allowed_senders': ('SELECT', 'INSERT'),
    'email_attachments': ('SELECT', 'DELETE'),
    'mail_history': ('SELECT', 'INSERT', 'UPDATE', 'DELETE'),
    'mail_history_progress': ('SELECT', 'UPDATE'),
    'mail_webhooks': ('SELECT', 'UPDATE'),
    'mail_webhook_deliveries': ('SELECT', 'UPDATE', 'DELETE'),
    'mail_alerts': ('SELECT', 'INSERT', 'UPDATE', 'DELETE'),
}

TIME_SQL = 'SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8'


async def read_time(pool: asyncpg.Pool) -> float:
    """Return the server's time in seconds since 1970."""
    now: float = await pool.fetchval(TIME_SQL)
    return now


SERVER_SQL = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS is_standby,
    current_setting('fsync') = 'on' AS fsync,
    current_setting('full_page_writes') = 'on' AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('autovacuum') = 'on' AS autovacuum,
    current_setting('max_connections')::int AS max_connections,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
    (SELECT max(age(datfrozenxid)) FROM pg_database) AS oldest_xid_age,
    (SELECT EXTRACT(EPOCH FROM max(now() - xact_start))::float8 FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
       AND backend_type = 'client backend')
        AS oldest_transaction_s,
    (SELECT slot_name FROM pg_replication_slots
     WHERE NOT active AND restart_lsn IS NOT NULL LIMIT 1) AS idle_slot
"""


async def read_server(pool: asyncpg.Pool) -> Row:
    """Return the server's version, role, safety settings and load."""
    (row,) = await pool.fetch(SERVER_SQL)
    return dict(row)


INDEXES_SQL = """
SELECT c.relname AS name, t.relname AS table, i.indisvalid AS is_valid, i.indisunique AS is_unique,
    pg_relation_size(c.oid) AS bytes
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
WHERE t.relname = ANY($1::text[]) AND pg_table_is_visible(t.oid)
"""


async def read_indexes(pool: asyncpg.Pool) -> list[Row]:
    """Return every index of our tables: name, table, is_valid, is_unique, bytes."""
    return [dict(row) for row in await pool.fetch(INDEXES_SQL, [*TABLES, 'mail_service_health'])]


STATISTICS_SQL = """
SELECT s.relname AS table, n_live_tup AS live, n_dead_tup AS dead,
    n_mod_since_analyze AS since_analyze,
    COALESCE(array_to_string(c.reloptions, ' ') ~ 'autovacuum_enabled=(false|off|0|no)', false)
        AS never_vacuumed,
    pg_total_relation_size(c.oid) AS bytes
FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
WHERE s.relname = ANY($1::text[]) AND pg_table_is_visible(c.oid)
"""


async def read_statistics(pool: asyncpg.Pool) -> list[Row]:
    """Return how many rows of our tables live and are dead, and their sizes."""
    return [dict(row) for row in await pool.fetch(STATISTICS_SQL, TABLES)]


# Workers call their connections name@host:pid.
WORKER_ROLE_SQL = """
SELECT min(usename) FROM pg_stat_activity
WHERE datname = current_database() AND application_name ~ '^.+@.+:[0-9]+$'
"""


async def read_worker_role(pool: asyncpg.Pool) -> str | None:
    """Return the role that workers are connected as; None when there is none."""
    role: str | None = await pool.fetchval(WORKER_ROLE_SQL)
    return role


RIGHTS_SQL = """
SELECT wanted.name AS table, wanted.privilege
FROM unnest($1::text[], $2::text[]) AS wanted (name, privilege),
    COALESCE($3::name, current_user) AS role
WHERE NOT CASE wanted.privilege WHEN 'DELETE' THEN has_table_privilege(role, wanted.name, 'DELETE')
                                -- A role with the least rights may write only some columns.
                                ELSE has_any_column_privilege(role, wanted.name, wanted.privilege)
          END
"""


async def read_missing_rights(pool: asyncpg.Pool, role: str | None = None) -> list[Row]:
    """Return what a worker needs and a role may not do, or else ours: table, privilege."""
    wanted = [
        (table, privilege) for table, privileges in RIGHTS.items() for privilege in privileges
    ]
    rows = await pool.fetch(
        RIGHTS_SQL, [table for table, _ in wanted], [privilege for _, privilege in wanted], role
    )
    return [dict(row) for row in rows]


_WAITS = f'({IS_SENDING} OR {HAS_NEXT_ATTEMPT})'

TEMPLATES_LOST_SQL = f"""
SELECT count(*) AS emails, min(id) AS first FROM mail_outbox AS e
WHERE {_WAITS} AND template_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM email_templates AS t WHERE t.id::text = e.template_id::text)
"""

CONTENT_SQL = f"""
SELECT content_id, min(id) AS first FROM mail_outbox
WHERE {_WAITS} AND content_id IS NOT NULL GROUP BY content_id ORDER BY first LIMIT $1
"""


async def read_lost_templates(pool: asyncpg.Pool) -> Row:
    """Count the waiting e-mails whose template does not exist: emails, first (an id)."""
    (row,) = await pool.fetch(TEMPLATES_LOST_SQL)
    return dict(row)


async def read_waiting_content(pool: asyncpg.Pool, limit: int) -> dict[str, int]:
    """Return the content_ids that waiting e-mails name, each with the id of an e-mail.

    The oldest come first.
    """
    return {row['content_id']: row['first'] for row in await pool.fetch(CONTENT_SQL, limit)}


async def stored_content(mongo: 'Mongo', content_ids: list[str]) -> set[str]:
    """Return those of these content_ids that have attachments.

    Raises:
        pymongo.errors.PyMongoError: MongoDB does not answer.
    """
    return set(await mongo[COLLECTION].distinct('content_id', {'content_id': {'$in': content_ids}}))


async def content_is_indexed(mongo: 'Mongo') -> bool:
    """Whether attachments are found by an index; True also when nobody ever stored any.

    Raises:
        pymongo.errors.PyMongoError: MongoDB does not answer.
    """
    if COLLECTION not in await mongo.list_collection_names():
        return True
    indexes = await mongo[COLLECTION].index_information()
    return any(index['key'][0][0] == 'content_id' for index in indexes.values())


POISONED_SQL = f"""
SELECT count(*) FROM mail_outbox
WHERE status = 'failed' AND {IS_TRIED} AND next_retry_at IS NULL
  AND dead_reason = '{DeadReason.POISON}' AND updated_at > now() - interval '1 day'
"""


async def count_poisoned(pool: asyncpg.Pool) -> int:
    """Count the e-mails that were set aside within a day because workers died sending them."""
    poisoned: int = await pool.fetchval(POISONED_SQL)
    return poisoned
