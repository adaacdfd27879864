"""What writes events: triggers of outbound_emails that are there only while a webhook wants them.

One place for everybody who changes an e-mail: workers, operators, the application's own SQL. They
are for each statement, not for each row, and without a webhook there is none.
"""

from collections.abc import Mapping
from enum import StrEnum

from db.adoption.quoting import quoted
from db.references import AnyConnection
from db.states import sql_list
from mail_outbox.states import DeadReason, Status


class WebhookEvent(StrEnum):
    """What may happen to an e-mail that a webhook can be told of."""

    QUEUED = 'email.queued'
    SENT = 'email.sent'
    DEFERRED = 'email.deferred'
    FAILED = 'email.failed'
    UNCERTAIN = 'email.uncertain'
    BOUNCED = 'email.bounced'
    COMPLAINED = 'email.complained'
    SUPPRESSED = 'email.suppressed'
    EXPIRED = 'email.expired'
    CANCELLED = 'email.cancelled'


TEST_EVENT = 'webhook.test'
# States whose beginning is an event of the same name. `failed` is several, see _event.
_NAMES = {event.removeprefix('email.') for event in WebhookEvent} - {Status.FAILED}
PLAIN = tuple(status for status in Status if status in _NAMES)
SHOWN_CHARS = 500  # of a reply or an error
LARGEST_JSON_BYTES = 8192  # of tags, metadata, outcomes: else they are left out


def _is_dead(row: str, names: Mapping[str, str]) -> str:
    next_retry_at, attempts, most = (
        f'{row}.{quoted(names[name])}' for name in ('next_retry_at', 'attempts', 'max_attempts')
    )
    return f'({next_retry_at} IS NULL OR {attempts} >= {most}) IS TRUE'


def _event(names: Mapping[str, str]) -> str:
    """Return the event of a row that has changed its state, or NULL."""
    status, reason = (f'n.{quoted(names[name])}' for name in ('status', 'dead_reason'))
    return f"""CASE WHEN {status} IN ({sql_list(PLAIN)}) THEN 'email.' || {status}
            WHEN {status} IS DISTINCT FROM '{Status.FAILED}' THEN NULL
            WHEN {reason} = '{DeadReason.SUPPRESSED}' THEN '{WebhookEvent.SUPPRESSED}'
            WHEN {_is_dead('n', names)} THEN '{WebhookEvent.FAILED}'
            ELSE '{WebhookEvent.DEFERRED}' END"""


def _data(names: Mapping[str, str]) -> str:
    """Return the payload's `data`: what the row says of itself, without what the e-mail says."""

    def column(name: str) -> str:
        return f'n.{quoted(names[name])}'

    def short(name: str) -> str:
        return f'left({column(name)}::text, {SHOWN_CHARS})'

    def small(name: str) -> str:
        value = column(name)
        return f'CASE WHEN pg_column_size({value}) <= {LARGEST_JSON_BYTES} THEN {value} END'

    values = {
        'email_id': column('id'),
        'message_id': column('message_id'),
        'status': column('status'),
        'recipient': f'left({column("recipient")}::text, 4000)',
        'cc': f'left({column("cc")}, 4000)',
        'bcc': f'left({column("bcc")}, 4000)',
        'email_type': column('email_type'),
        'organization_id': column('organization_id'),
        'user_id': column('user_id'),
        'tags': small('tags'),
        'metadata': small('metadata'),
        'attempt': column('attempts'),
        'relay': column('relay'),
        'smtp_code': column('smtp_code'),
        'enhanced_code': column('enhanced_code'),
        'reply': short('smtp_response'),
        'error': short('last_error'),
        'dead_reason': column('dead_reason'),
        'feedback': short('feedback'),
        'next_retry_at': f'{column("next_retry_at")}::timestamptz',
        'recipient_outcomes': small('recipient_outcomes'),
    }
    return ', '.join(f"'{name}', {value}" for name, value in values.items())


def _writing(names: Mapping[str, str], rows: str, event: str) -> str:
    """Return the statement that writes what happened for every webhook that wants it."""
    return f"""
    INSERT INTO mail_webhook_deliveries (webhook_id, email_id, event_type, payload)
    SELECT w.id, e.email_id, e.event,
        jsonb_build_object('type', e.event, 'timestamp', now(), 'data', e.data)
    FROM (
        SELECT n.{quoted(names['id'])}::bigint AS email_id, {event} AS event,
            n.{quoted(names['organization_id'])}::text AS organization_id,
            jsonb_build_object({_data(names)}) AS data
        FROM {rows}
    ) AS e
    JOIN mail_webhooks AS w ON w.enabled
        AND (w.event_types IS NULL OR e.event = ANY(w.event_types))
        AND (w.organization_id IS NULL OR w.organization_id = e.organization_id)
    WHERE e.event IS NOT NULL
    ORDER BY e.email_id;"""


# Rows are joined by their ids whatever plan the session prefers: a worker's would compare each with
# each. What fails here must not keep anybody from recording what became of an e-mail.
_FUNCTION = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET enable_hashjoin = on SET enable_nestloop = off AS $events$
BEGIN{body}
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'events for webhooks were not written: %', SQLERRM;
    RETURN NULL;
END
$events$;"""

_ARM = f"""
CREATE OR REPLACE FUNCTION mail_webhooks_arm() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '500ms' AS $arm$
DECLARE
    wants_queued boolean;
    wants_changes boolean;
    has_queued boolean;
    has_changes boolean;
BEGIN
    LOCK TABLE mail_webhooks IN SHARE ROW EXCLUSIVE MODE;
    SELECT COALESCE(bool_or(tgname = 'mail_webhooks_queued'), false),
        COALESCE(bool_or(tgname = 'mail_webhooks_changed'), false)
    INTO has_queued, has_changes FROM pg_trigger WHERE tgrelid = 'outbound_emails'::regclass;
    SELECT COALESCE(bool_or(COALESCE('{WebhookEvent.QUEUED}' = ANY(event_types), true)), false),
        COALESCE(bool_or(COALESCE(event_types <> '{{{WebhookEvent.QUEUED}}}', true)), false)
    INTO wants_queued, wants_changes FROM mail_webhooks WHERE enabled;
    IF wants_queued AND NOT has_queued THEN
        CREATE TRIGGER mail_webhooks_queued AFTER INSERT ON outbound_emails
            REFERENCING NEW TABLE AS written
            FOR EACH STATEMENT EXECUTE FUNCTION mail_webhooks_queued();
    ELSIF NOT wants_queued AND has_queued THEN
        DROP TRIGGER mail_webhooks_queued ON outbound_emails;
    END IF;
    IF wants_changes AND NOT has_changes THEN
        CREATE TRIGGER mail_webhooks_changed AFTER UPDATE ON outbound_emails
            REFERENCING OLD TABLE AS before NEW TABLE AS written
            FOR EACH STATEMENT EXECUTE FUNCTION mail_webhooks_changed();
    ELSIF NOT wants_changes AND has_changes THEN
        DROP TRIGGER mail_webhooks_changed ON outbound_emails;
    END IF;
END
$arm$;"""


def capture_ddl(names: Mapping[str, str]) -> str:
    """Return the DDL of the functions that write events, and of the one that makes the triggers.

    Args:
        names: Which column of the table each column of mail_outbox is.
    """
    status, ident = quoted(names['status']), quoted(names['id'])
    queued = _writing(
        names,
        'written AS n',
        f"CASE WHEN n.{status} = '{Status.PENDING}' THEN '{WebhookEvent.QUEUED}' END",
    )
    changed = _writing(
        names,
        f"""written AS n JOIN before AS o ON o.{ident} = n.{ident}
        WHERE n.{status} IN ({sql_list((*PLAIN, Status.FAILED))})
          AND (o.{status} IS DISTINCT FROM n.{status}
               OR (n.{status} = '{Status.FAILED}' AND {_is_dead('n', names)}
                   AND NOT {_is_dead('o', names)}))""",
        _event(names),
    )
    return (
        _FUNCTION.format(name='mail_webhooks_queued', body=queued)
        + _FUNCTION.format(name='mail_webhooks_changed', body=changed)
        + _ARM
    )


REMOVE_CAPTURE_DDL = """
DROP FUNCTION IF EXISTS mail_webhooks_queued(), mail_webhooks_changed() CASCADE;
DROP FUNCTION IF EXISTS mail_webhooks_arm();"""

ARM_SQL = 'SELECT mail_webhooks_arm()'


async def arm(conn: AnyConnection) -> None:
    """Have the triggers there that the webhooks want now, and no other.

    Raises:
        asyncpg.LockNotAvailableError: somebody holds outbound_emails; nothing was changed.
    """
    await conn.execute(ARM_SQL)
