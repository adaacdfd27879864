-- What comes back after a relay accepted an e-mail: bounces and complaints, and two states that say so.
-- depends: 0016_queued_by

-- migrate: apply
DO $free$
BEGIN
IF to_regclass('email_feedback') IS NOT NULL THEN
    RAISE EXCEPTION 'there is a table email_feedback, and this program makes one'
        USING HINT = 'rename it';
END IF;
END
$free$;

-- One row for each recipient that a report names. No foreign key, as for email_attempts; the retention deletes them with
-- their e-mail.
CREATE TABLE email_feedback (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    report_key text NOT NULL, -- the same report is one row, however often it comes
    kind text NOT NULL,
    source text NOT NULL, -- by which way it came, or whose it is
    is_trusted boolean NOT NULL DEFAULT false, -- who sent it has proved to be the provider
    recipient text,
    enhanced_code text,
    diagnostic text,
    -- By what its e-mail is found: the id of a signed return path, else Message-ID or the relay's id, and about when.
    email_id bigint,
    message_id text,
    relay_id text,
    sent_at timestamptz,
    reported_at timestamptz,
    received_at timestamptz NOT NULL DEFAULT now(),
    look_at timestamptz NOT NULL DEFAULT now(), -- not before: its e-mail is still under way
    applied_at timestamptz, -- NULL: not yet
    effect text, -- what came of it
    CONSTRAINT email_feedback_once UNIQUE (report_key),
    CONSTRAINT email_feedback_kind_known CHECK (kind IN ('bounce', 'soft-bounce', 'delay', 'complaint')),
    CONSTRAINT email_feedback_applied_has_effect CHECK ((applied_at IS NULL) = (effect IS NULL))
);
CREATE INDEX email_feedback_email ON email_feedback (email_id);
CREATE INDEX email_feedback_received ON email_feedback (received_at);
CREATE INDEX email_feedback_open ON email_feedback (look_at) WHERE applied_at IS NULL;

-- Checked over all rows by the next file, which lets others write meanwhile.
DO $states$
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    ALTER TABLE outbound_emails
        DROP CONSTRAINT outbound_emails_status_known,
        ADD CONSTRAINT outbound_emails_status_known CHECK
            (status IN ('pending', 'sending', 'sent', 'failed', 'uncertain', 'bounced', 'complained', 'expired',
             'cancelled', 'held', 'external')) NOT VALID;
END IF;
END
$states$;

-- An adopted table that is not finished yet gets its columns from db/adoption; one that is finished may have columns of
-- its application's under such names, and ours are called mail_<name> then.
DO $columns$
DECLARE
    wanted record;
    added text[] := '{}';
    column_name text;
BEGIN
IF NOT EXISTS (SELECT FROM pg_constraint
               WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    RETURN;
END IF;
FOR wanted IN SELECT * FROM (VALUES ('feedback_at', 'timestamptz'), ('feedback', 'text')) AS w (name, type) LOOP
    column_name := wanted.name;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass
               AND attname = wanted.name AND NOT attisdropped) THEN
        column_name := 'mail_' || wanted.name;
    END IF;
    EXECUTE format('ALTER TABLE outbound_emails ADD COLUMN %I %s', column_name, wanted.type);
    added := added || column_name;
END LOOP;
UPDATE outbox_adoption SET added_columns = added_columns || added;
END
$columns$;

-- migrate: rollback
DROP TABLE email_feedback;
