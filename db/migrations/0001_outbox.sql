-- The outbox, its attempts, and the tables an existing installation may already have.
-- depends:

-- migrate: apply
-- A table that is there already keeps its form: `python -m db.migrate` adds to it what is missing, see db/adoption.

DO $new$
BEGIN
IF to_regclass('outbound_emails') IS NOT NULL THEN
    RETURN;
END IF;

CREATE TABLE outbound_emails (
    id bigserial PRIMARY KEY,
    recipient text NOT NULL,
    subject text,
    body_text text,
    body_html text,
    email_type text,
    template_id bigint,
    template_data jsonb,
    status text NOT NULL DEFAULT 'pending',
    smtp_response text,
    smtp_code integer,
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 5,
    next_retry_at timestamptz,
    last_attempt_at timestamptz,
    sent_at timestamptz,
    expires_at timestamptz,
    user_id bigint,
    organization_id bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- who else may know that this is the same e-mail
    message_id text,
    message_date timestamptz,
    idempotency_key text,
    -- what is sent besides the bodies
    headers jsonb,
    content_id text,
    priority smallint NOT NULL DEFAULT 1,
    -- who holds it now
    claim_token uuid,
    claimed_by text,
    claimed_at timestamptz,
    lease_expires_at timestamptz,
    lost_attempts smallint NOT NULL DEFAULT 0,
    -- what became of it
    relay text,
    enhanced_code text,
    last_error text,
    dead_reason text,
    recipient_outcomes jsonb,
    CONSTRAINT outbound_emails_status_known CHECK
        (status IN ('pending', 'sending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled')),
    CONSTRAINT outbound_emails_attempts_in_range CHECK (attempts BETWEEN 0 AND max_attempts),
    CONSTRAINT outbound_emails_priority_known CHECK (priority BETWEEN 0 AND 2),
    -- One direction only: an operator may set any row to pending by hand, whatever these columns hold.
    CONSTRAINT outbound_emails_sending_is_claimed CHECK
        (status <> 'sending' OR (claim_token IS NOT NULL AND claimed_by IS NOT NULL AND lease_expires_at IS NOT NULL)),
    CONSTRAINT outbound_emails_sent_has_time CHECK (status <> 'sent' OR sent_at IS NOT NULL)
) WITH (
    -- Measured, docs/schema.md: room on each page for a row's next version saves a quarter of the WAL and costs a third
    -- more table; dead rows go while they are few, however many old rows the table keeps.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02
);

-- Few and partial: a row that is sent or dead stands in none of them but the primary key and the BRIN.
CREATE INDEX outbound_emails_due ON outbound_emails (priority, next_retry_at)
    WHERE status IN ('pending', 'failed', 'uncertain') AND next_retry_at IS NOT NULL;
CREATE INDEX outbound_emails_unscheduled ON outbound_emails (id) WHERE status = 'pending' AND next_retry_at IS NULL;
CREATE INDEX outbound_emails_leased ON outbound_emails (lease_expires_at) WHERE status = 'sending';
CREATE INDEX outbound_emails_suspect ON outbound_emails (next_retry_at)
    WHERE lost_attempts > 0 AND status IN ('pending', 'failed', 'uncertain') AND next_retry_at IS NOT NULL;
CREATE INDEX outbound_emails_failed ON outbound_emails (created_at) WHERE status IN ('failed', 'uncertain');
CREATE UNIQUE INDEX outbound_emails_idempotency ON outbound_emails (organization_id, idempotency_key)
    NULLS NOT DISTINCT WHERE idempotency_key IS NOT NULL;
CREATE INDEX outbound_emails_created ON outbound_emails USING brin (created_at);
END
$new$;

-- One row per attempt, written together with its result. started_at is the claim's time, so one e-mail never has two
-- attempts with the same one. No foreign key: it would lock the parent row once more for every e-mail sent.
CREATE TABLE email_attempts (
    email_id bigint NOT NULL,
    started_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    worker text NOT NULL,
    outcome text NOT NULL,
    phase text NOT NULL,
    relay text,
    smtp_code integer,
    enhanced_code text,
    reply text,
    error text,
    duration_ms integer,
    PRIMARY KEY (email_id, started_at),
    CONSTRAINT email_attempts_outcome_known CHECK
        (outcome IN ('accepted', 'deferred', 'rejected', 'uncertain', 'released', 'lost'))
);

CREATE INDEX email_attempts_started ON email_attempts USING brin (started_at);

CREATE TABLE IF NOT EXISTS email_templates (
    id bigserial PRIMARY KEY,
    name text NOT NULL UNIQUE,
    subject text,
    body_text text,
    body_html text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE email_templates
    ADD COLUMN IF NOT EXISTS subject text,
    ADD COLUMN IF NOT EXISTS body_text text,
    ADD COLUMN IF NOT EXISTS body_html text;

-- What is there already is the application's, whatever its columns: it is not changed, and no duty deletes from it unless
-- a setting names it. The comment tells the tables apart (0004_adoption.sql reads it).
DO $new$
BEGIN
IF to_regclass('sessions') IS NULL THEN
    CREATE TABLE sessions (
        id bigserial PRIMARY KEY,
        user_id bigint,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz
    );
    COMMENT ON TABLE sessions IS 'made by arq-mail-worker';
END IF;
IF to_regclass('refresh_tokens') IS NULL THEN
    CREATE TABLE refresh_tokens (
        id bigserial PRIMARY KEY,
        user_id bigint,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz
    );
    COMMENT ON TABLE refresh_tokens IS 'made by arq-mail-worker';
END IF;
IF to_regclass('service_health') IS NULL THEN
    CREATE TABLE service_health (
        id bigserial PRIMARY KEY,
        service_name text NOT NULL,
        status text NOT NULL,
        response_time_ms integer,
        error_message text,
        checked_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX service_health_checked ON service_health (checked_at);
    COMMENT ON TABLE service_health IS 'made by arq-mail-worker';
END IF;
END
$new$;

-- One row per run of a cron duty. The primary key decides which worker runs a slot, whatever Redis says.
CREATE TABLE cron_runs (
    duty text NOT NULL,
    slot timestamptz NOT NULL,
    worker text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text,
    affected integer,
    detail text,
    PRIMARY KEY (duty, slot),
    CONSTRAINT cron_runs_outcome_known CHECK (outcome IN ('done', 'error')),
    CONSTRAINT cron_runs_finished_has_outcome CHECK ((finished_at IS NULL) = (outcome IS NULL))
);

-- migrate: rollback
-- An adopted table holds the application's mail: there is no way back that deletes nothing, so there is none here.
SELECT 1;
