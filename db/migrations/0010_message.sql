-- What an e-mail can say: who it is from, more recipients, tags, a calendar, a message as given, and attachments.
-- depends: 0009_access

-- migrate: apply
DO $free$
BEGIN
IF to_regclass('email_attachments') IS NOT NULL OR to_regclass('allowed_senders') IS NOT NULL THEN
    RAISE EXCEPTION 'there is a table email_attachments or allowed_senders, and this program makes one'
        USING HINT = 'rename it';
END IF;
END
$free$;

-- Who may stand in From and Sender, and in MAIL FROM: an address, or '@example.com' for a whole domain, in lower case
-- with the domain in its ASCII form. Without an organisation: for every e-mail. As text, because an adopted table's
-- organization_id may be of any type.
CREATE TABLE allowed_senders (
    organization_id text,
    pattern text NOT NULL,
    source text NOT NULL DEFAULT 'operator',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    CONSTRAINT allowed_senders_once UNIQUE NULLS NOT DISTINCT (pattern, organization_id),
    -- A pattern in another form would never be found.
    CONSTRAINT allowed_senders_pattern_normalised CHECK (pattern = lower(pattern) AND pattern ~ '@[^@[:space:]]+$')
);

-- No foreign key, as for email_attempts; the retention deletes them with their row, and what no row has is swept up.
CREATE TABLE email_attachments (
    email_id bigint NOT NULL,
    position integer NOT NULL,
    filename text,
    content_type text,
    cid text,
    data bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (email_id, position)
);
-- What is attached is mostly compressed already.
ALTER TABLE email_attachments ALTER COLUMN data SET STORAGE EXTERNAL;

-- The trigger of email_attachments is made by `python -m db.migrate` itself: a backup of tables has no functions.

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
FOR wanted IN
    SELECT * FROM (VALUES
        ('from_address', 'text'), ('sender_address', 'text'), ('envelope_from', 'text'), ('reply_to', 'text'),
        ('cc', 'text'), ('bcc', 'text'), ('one_copy_each', 'boolean'), ('tags', 'jsonb'), ('metadata', 'jsonb'),
        ('has_attachments', 'boolean'), ('calendar', 'text'), ('raw_message', 'bytea')
    ) AS w (name, type)
LOOP
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
DROP TABLE email_attachments, allowed_senders;
DROP FUNCTION IF EXISTS note_attachments();
