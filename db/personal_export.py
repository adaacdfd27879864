"""What is held on one person, to be read out."""

from collections.abc import Sequence

import asyncpg

from db.personal import Person
from db.times import Row, rows_of
from mail_outbox.suppression import erased_key

# Of the worker's own concern, and nothing of the person's.
_NOT_THEIRS = ('claim_token', 'claimed_by', 'claimed_at', 'lease_expires_at', 'content_digest')
PERSONAL_EMAILS_SQL = """
SELECT e.*,
    (SELECT COALESCE(jsonb_agg(to_jsonb(a) - 'worker' ORDER BY a.started_at), '[]')
     FROM email_attempts AS a WHERE a.email_id = e.id) AS attempts_made,
    (SELECT COALESCE(jsonb_agg(to_jsonb(f) ORDER BY f.id), '[]')
     FROM email_feedback AS f WHERE f.email_id = e.id) AS reports,
    (SELECT COALESCE(jsonb_agg(jsonb_build_object('filename', b.filename,
        'content_type', b.content_type, 'data', encode(b.data, 'base64')) ORDER BY b.position),
        '[]') FROM email_attachments AS b WHERE b.email_id = e.id) AS attached
FROM mail_outbox AS e WHERE e.id = ANY($1::bigint[]) ORDER BY e.id
"""


async def read_personal_emails(
    pool: asyncpg.Pool, email_ids: Sequence[int], person: Person
) -> list[Row]:
    """Return e-mails with all their columns, attempts, reports and attachments.

    Of those in Bcc and of the outcomes of others nothing is told but what is the person's.
    """
    rows = rows_of(await pool.fetch(PERSONAL_EMAILS_SQL, list(email_ids)))
    return [_of_person(row, person) for row in rows]


def _of_person(row: Row, person: Person) -> Row:
    told = {name: value for name, value in row.items() if name not in _NOT_THEIRS}
    outcomes = row['recipient_outcomes']
    if isinstance(outcomes, dict):
        told['recipient_outcomes'] = {
            to: outcome for to, outcome in outcomes.items() if to.lower() == person.key
        }
    if row['bcc'] is not None:
        told['bcc'] = person.key if person.key in row['bcc'].lower() else None
    if row['one_copy_each']:
        told['recipient'] = person.key
    return told


PERSONAL_ENTRIES_SQL = """
SELECT 'suppression' AS kind, to_jsonb(s) AS entry FROM email_suppressions AS s
WHERE address = ANY($1::text[])
UNION ALL
SELECT 'type_suppression', to_jsonb(s) FROM email_type_suppressions AS s
WHERE address = ANY($1::text[])
UNION ALL
SELECT 'audit', jsonb_build_object('at', at, 'action', action, 'details', details)
FROM mail_audit WHERE concat_ws(' ', details::text, problem) ~* $2
UNION ALL
SELECT 'feedback', to_jsonb(f) FROM email_feedback AS f
WHERE concat_ws(' ', recipient, diagnostic) ~* $2
UNION ALL
SELECT 'webhook_delivery', jsonb_build_object('occurred_at', occurred_at, 'payload', payload)
FROM mail_webhook_deliveries WHERE payload::text ~* $2
"""


async def read_personal_entries(pool: asyncpg.Pool, person: Person) -> list[Row]:
    """Return what there is outside the outbox, each with its kind."""
    keys = [person.key, erased_key(person.key), person.key[person.key.rfind('@') :]]
    rows = rows_of(await pool.fetch(PERSONAL_ENTRIES_SQL, keys, person.pattern))
    return [{'kind': row['kind'], **row['entry']} for row in rows]
