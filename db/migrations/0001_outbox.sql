-- The outbox, its attempts, and the tables an existing installation may already have.
-- depends:

-- migrate: apply
-- Every statement adopts what is already there: CREATE ... IF NOT EXISTS, then ADD COLUMN IF NOT EXISTS.

CREATE TABLE IF NOT EXISTS outbound_emails (
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
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- An adopted table may hold local times without a zone, an enum or a CHECK for the status, and columns too narrow for
-- what a relay can say. Times are read as UTC, which is what a server running in UTC wrote. Our own CHECK and indexes
-- take the place of those that name the old states.
DO $adopt$
DECLARE
    found record;
    unknown text;
BEGIN
    FOR found IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'outbound_emails'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) ~ '\ystatus\y'
    LOOP
        EXECUTE format('ALTER TABLE outbound_emails DROP CONSTRAINT %I', found.conname);
    END LOOP;
    IF EXISTS (SELECT FROM information_schema.columns
               WHERE table_schema = current_schema() AND table_name = 'outbound_emails'
                 AND column_name = 'status' AND data_type = 'USER-DEFINED') THEN
        FOR found IN
            SELECT indexrelid::regclass AS name FROM pg_index
            WHERE indrelid = 'outbound_emails'::regclass AND NOT indisprimary
              AND pg_get_indexdef(indexrelid) ~ '\ystatus\y'
        LOOP
            EXECUTE format('DROP INDEX %s', found.name);
        END LOOP;
        ALTER TABLE outbound_emails ALTER COLUMN status DROP DEFAULT, ALTER COLUMN status TYPE text USING status::text;
    END IF;
    FOR found IN
        SELECT column_name, data_type FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'outbound_emails'
          AND (data_type = 'timestamp without time zone'
               OR (data_type = 'character varying' AND column_name IN ('status', 'smtp_response')))
    LOOP
        IF found.data_type = 'character varying' THEN
            EXECUTE format('ALTER TABLE outbound_emails ALTER COLUMN %I TYPE text', found.column_name);
        ELSE
            EXECUTE format('ALTER TABLE outbound_emails ALTER COLUMN %1$I DROP DEFAULT, '
                           'ALTER COLUMN %1$I TYPE timestamptz USING %1$I AT TIME ZONE ''UTC''', found.column_name);
        END IF;
    END LOOP;
    SELECT string_agg(format('%s (%s rows)', status, n), ', ') INTO unknown
    FROM (SELECT status, count(*) AS n FROM outbound_emails
          WHERE status NOT IN ('pending', 'sending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled')
          GROUP BY status) AS s;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'outbound_emails holds status values this system does not know: %', unknown
            USING HINT = 'UPDATE these rows to pending, sent, failed, expired or cancelled, then migrate again.';
    END IF;
END
$adopt$;

ALTER TABLE outbound_emails
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN attempts SET DEFAULT 0,
    ALTER COLUMN max_attempts SET DEFAULT 5,
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now(),
    -- who else may know that this is the same e-mail
    ADD COLUMN IF NOT EXISTS message_id text,
    ADD COLUMN IF NOT EXISTS message_date timestamptz,
    ADD COLUMN IF NOT EXISTS idempotency_key text,
    -- what is sent besides the bodies
    ADD COLUMN IF NOT EXISTS headers jsonb,
    ADD COLUMN IF NOT EXISTS content_id text,
    ADD COLUMN IF NOT EXISTS priority smallint NOT NULL DEFAULT 1,
    -- who holds it now
    ADD COLUMN IF NOT EXISTS claim_token uuid,
    ADD COLUMN IF NOT EXISTS claimed_by text,
    ADD COLUMN IF NOT EXISTS claimed_at timestamptz,
    ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS lost_attempts smallint NOT NULL DEFAULT 0,
    -- what became of it
    ADD COLUMN IF NOT EXISTS relay text,
    ADD COLUMN IF NOT EXISTS enhanced_code text,
    ADD COLUMN IF NOT EXISTS last_error text,
    ADD COLUMN IF NOT EXISTS dead_reason text,
    ADD COLUMN IF NOT EXISTS recipient_outcomes jsonb;

UPDATE outbound_emails
SET attempts = COALESCE(attempts, 0),
    max_attempts = GREATEST(COALESCE(max_attempts, 5), COALESCE(attempts, 0), 1),
    created_at = COALESCE(created_at, now()),
    updated_at = COALESCE(updated_at, created_at, now())
WHERE attempts IS NULL OR max_attempts IS NULL OR attempts > max_attempts OR max_attempts < 1
   OR created_at IS NULL OR updated_at IS NULL;

UPDATE outbound_emails SET sent_at = COALESCE(last_attempt_at, updated_at)
WHERE status = 'sent' AND sent_at IS NULL;

-- Nobody can know whether the previous system got as far as the final dot, so an operator decides.
UPDATE outbound_emails
SET status = 'uncertain', next_retry_at = NULL,
    last_error = 'was being sent by the previous system when its table was adopted'
WHERE status = 'sending' AND claim_token IS NULL;

ALTER TABLE outbound_emails
    ALTER COLUMN status SET NOT NULL,
    ALTER COLUMN attempts SET NOT NULL,
    ALTER COLUMN max_attempts SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL,
    ALTER COLUMN updated_at SET NOT NULL,
    ADD CONSTRAINT outbound_emails_status_known CHECK
        (status IN ('pending', 'sending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled')),
    ADD CONSTRAINT outbound_emails_attempts_in_range CHECK (attempts BETWEEN 0 AND max_attempts),
    ADD CONSTRAINT outbound_emails_priority_known CHECK (priority BETWEEN 0 AND 2),
    -- One direction only: an operator may set any row to pending by hand, whatever these columns hold.
    ADD CONSTRAINT outbound_emails_sending_is_claimed CHECK
        (status <> 'sending' OR (claim_token IS NOT NULL AND claimed_by IS NOT NULL AND lease_expires_at IS NOT NULL)),
    ADD CONSTRAINT outbound_emails_sent_has_time CHECK (status <> 'sent' OR sent_at IS NOT NULL);

-- Measured, docs/schema.md: room on each page for a row's next version saves a quarter of the WAL and costs a third more
-- table; dead rows go while they are few, however many old rows the table keeps.
ALTER TABLE outbound_emails SET (
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

CREATE TABLE IF NOT EXISTS sessions (
    id bigserial PRIMARY KEY,
    user_id bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);

CREATE TABLE IF NOT EXISTS refresh_tokens (
    id bigserial PRIMARY KEY,
    user_id bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);

ALTER TABLE sessions ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz;
ALTER TABLE refresh_tokens ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz;

CREATE TABLE IF NOT EXISTS service_health (
    id bigserial PRIMARY KEY,
    service_name text NOT NULL,
    status text NOT NULL,
    response_time_ms integer,
    error_message text,
    checked_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE service_health
    ADD COLUMN IF NOT EXISTS service_name text,
    ADD COLUMN IF NOT EXISTS status text,
    ADD COLUMN IF NOT EXISTS response_time_ms integer,
    ADD COLUMN IF NOT EXISTS error_message text,
    ADD COLUMN IF NOT EXISTS checked_at timestamptz DEFAULT now();
-- Columns and CHECKs of an adopted table that our rows do not know must not refuse them.
DO $adopt$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT conname FROM pg_constraint WHERE conrelid = 'service_health'::regclass AND contype = 'c'
    LOOP
        EXECUTE format('ALTER TABLE service_health DROP CONSTRAINT %I', found.conname);
    END LOOP;
    FOR found IN
        SELECT column_name FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'service_health' AND is_nullable = 'NO'
          AND column_default IS NULL AND is_identity = 'NO'
          AND column_name NOT IN ('service_name', 'status')
    LOOP
        EXECUTE format('ALTER TABLE service_health ALTER COLUMN %I DROP NOT NULL', found.column_name);
    END LOOP;
END
$adopt$;
CREATE INDEX IF NOT EXISTS service_health_checked ON service_health (checked_at);

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
