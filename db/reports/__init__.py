"""What operators read: the outbox, its attempts, duties and services, as plain dicts for JSON.

Every function raises asyncpg.PostgresError or OSError when PostgreSQL does not answer. Ages (_s)
are in seconds, by the database's clock.
"""

from db.reports.attempts import (
    count_attempts,
    count_failures,
    count_last_minute,
    read_durations,
    read_last_failures,
)
from db.reports.one_email import (
    read_ahead,
    read_attachments,
    read_attempts,
    read_email,
    read_states,
    read_template,
)
from db.reports.outbox import read_active, read_outbox, read_paused_due, read_scheduled
from db.reports.traces import read_duties, read_seen_workers, read_services

__all__ = [
    'count_attempts',
    'count_failures',
    'count_last_minute',
    'read_active',
    'read_ahead',
    'read_attachments',
    'read_attempts',
    'read_durations',
    'read_duties',
    'read_email',
    'read_last_failures',
    'read_outbox',
    'read_paused_due',
    'read_scheduled',
    'read_seen_workers',
    'read_services',
    'read_states',
    'read_template',
]
