-- The trace in which an e-mail was queued (W3C Trace Context).
-- depends: 0027_search

-- migrate: apply
-- An adopted table that is not finished yet gets its columns from db/adoption; one that is finished may have a column of
-- its application's under this name, and ours is called mail_traceparent then.
DO $columns$
DECLARE
    column_name text := 'traceparent';
BEGIN
IF NOT EXISTS (SELECT FROM pg_constraint
               WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    RETURN;
END IF;
IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass
           AND attname = column_name AND NOT attisdropped) THEN
    column_name := 'mail_traceparent';
END IF;
EXECUTE format('ALTER TABLE outbound_emails ADD COLUMN %I text', column_name);
UPDATE outbox_adoption SET added_columns = added_columns || column_name;
END
$columns$;

-- migrate: rollback
SELECT 1;
