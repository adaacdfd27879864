-- Events for the programs of others: who wants which, and what became of each delivery.
-- depends: 0018_feedback_checked

-- migrate: apply
DO $free$
BEGIN
IF to_regclass('mail_webhooks') IS NOT NULL OR to_regclass('mail_webhook_deliveries') IS NOT NULL THEN
    RAISE EXCEPTION 'there is a table mail_webhooks or mail_webhook_deliveries, and this program makes one'
        USING HINT = 'rename it';
END IF;
END
$free$;

CREATE TABLE mail_webhooks (
    id bigserial PRIMARY KEY,
    url text NOT NULL,
    description text,
    event_types text[], -- NULL: all of them
    organization_id text, -- events of this one's e-mails alone; as text, see mail_api_tokens
    -- A signature needs the secret itself, so it cannot be hashed. Both sign until the time comes.
    secret text NOT NULL,
    previous_secret text,
    previous_secret_until timestamptz,
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    -- How its deliveries go: any success ends a failure.
    failures integer NOT NULL DEFAULT 0, -- in a row
    failing_since timestamptz,
    cool_until timestamptz, -- nothing is delivered before
    last_error text,
    last_delivered_at timestamptz,
    CONSTRAINT mail_webhooks_url_short CHECK (char_length(url) BETWEEN 1 AND 2000),
    CONSTRAINT mail_webhooks_event_types_given CHECK (event_types <> '{}')
) WITH (fillfactor = 50);

-- One row per event and endpoint, written in the transaction that changes the e-mail. No foreign keys: they would lock the
-- endpoint's row once more for every e-mail sent. A claim is a row with a token whose next_retry_at is the lease's end.
CREATE TABLE mail_webhook_deliveries (
    id bigserial PRIMARY KEY,
    webhook_id bigint NOT NULL,
    message_id uuid NOT NULL DEFAULT gen_random_uuid(), -- the header webhook-id: the same for every try
    email_id bigint, -- NULL: a test
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    status text NOT NULL DEFAULT 'waiting',
    occurred_at timestamptz NOT NULL DEFAULT now(),
    next_retry_at timestamptz NOT NULL DEFAULT now(),
    dead_at timestamptz NOT NULL DEFAULT now() + interval '1 day', -- the last attempt is then
    attempts integer NOT NULL DEFAULT 0,
    claim_token uuid,
    claimed_by text,
    last_attempt_at timestamptz,
    ended_at timestamptz,
    http_status integer,
    answer text,
    error text,
    duration_ms integer,
    CONSTRAINT mail_webhook_deliveries_status_known CHECK (status IN ('waiting', 'delivered', 'dead'))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000
);
CREATE INDEX mail_webhook_deliveries_due ON mail_webhook_deliveries (webhook_id, next_retry_at) WHERE status = 'waiting';
-- What is before an event in its e-mail's order.
CREATE INDEX mail_webhook_deliveries_order ON mail_webhook_deliveries (webhook_id, email_id, id) WHERE status = 'waiting';
CREATE INDEX mail_webhook_deliveries_dying ON mail_webhook_deliveries (dead_at) WHERE status = 'waiting';
CREATE INDEX mail_webhook_deliveries_occurred ON mail_webhook_deliveries USING brin (occurred_at) WITH (autosummarize = on);

-- The functions and triggers that write events are made by `python -m db.migrate` itself: an adopted table's columns differ.

-- migrate: rollback
DROP FUNCTION IF EXISTS mail_webhooks_changed(), mail_webhooks_queued(), mail_webhooks_arm() CASCADE;
DROP TABLE mail_webhook_deliveries, mail_webhooks;
