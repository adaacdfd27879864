-- What is kept about tables that were there before this program, and two more states.
-- depends: 0003_suppressions

-- migrate: apply
-- held: an operator decides, so it is neither sent nor expired until somebody releases or cancels it. external: another
-- system sends it. Checked over all rows by the next file, which lets others write meanwhile.
DO $states$
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    ALTER TABLE outbound_emails
        DROP CONSTRAINT outbound_emails_status_known,
        ADD CONSTRAINT outbound_emails_status_known CHECK
            (status IN ('pending', 'sending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled',
             'held', 'external')) NOT VALID;
END IF;
END
$states$;

-- One row when outbound_emails was there before this program; else none.
CREATE TABLE outbox_adoption (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- expanding: `python -m db.migrate` has not ended yet. shared: both systems may run, each with rows of its own.
    phase text NOT NULL CHECK (phase IN ('expanding', 'shared', 'taken over', 'finished')),
    adopted_at timestamptz NOT NULL DEFAULT now(),
    taken_over_at timestamptz,
    finished_at timestamptz,
    added_columns text[] NOT NULL DEFAULT '{}', -- what the way back removes
    added_indexes text[] NOT NULL DEFAULT '{}',
    words jsonb NOT NULL DEFAULT '{}', -- the application's words for the states, see db/adoption/words.py
    rebuilt_indexes text[] NOT NULL DEFAULT '{}' -- their DDL: finishing drops them under its lock and builds them after it
);

CREATE TABLE table_origins (
    name text PRIMARY KEY,
    made_here boolean NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    reported_at timestamptz, -- when a duty first said what it would delete from a table that was adopted
    reported_rows bigint
);

INSERT INTO table_origins (name, made_here)
SELECT name, COALESCE(obj_description(to_regclass(name), 'pg_class') = 'made by arq-mail-worker', false)
FROM unnest(ARRAY['sessions', 'refresh_tokens', 'service_health']) AS t (name);

-- The view `mail_outbox` and the function `outbox_state` are made by `python -m db.migrate` itself: an adopted table's differ.

-- A service_health of the application's stays as it is; a database of the version before wrote into it already.
DO $health$
BEGIN
IF (SELECT made_here FROM table_origins WHERE name = 'service_health') OR (
    SELECT count(*) FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass AND NOT attisdropped
    AND attname IN ('claim_token', 'lease_expires_at', 'lost_attempts')) = 3 THEN
    CREATE VIEW mail_service_health WITH (security_invoker = true) AS
    SELECT id, service_name, status, response_time_ms, error_message, checked_at FROM service_health;
    GRANT SELECT, INSERT, DELETE ON mail_service_health TO PUBLIC;
ELSE
    CREATE TABLE mail_service_health (
        id bigserial PRIMARY KEY,
        service_name text NOT NULL,
        status text NOT NULL,
        response_time_ms integer,
        error_message text,
        checked_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX mail_service_health_checked ON mail_service_health (checked_at);
END IF;
END
$health$;

-- migrate: rollback
DROP VIEW IF EXISTS mail_outbox, mail_service_health;
DROP TABLE outbox_adoption, table_origins;
