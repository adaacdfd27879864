-- Why an e-mail is dead is one of a list of words, as its state is.
-- depends: 0006_held

-- migrate: apply
-- Checked over all rows by the next file, which lets others write meanwhile. An adopted table that is not finished yet
-- gets it with its other CHECKs; one that is finished may have a column dead_reason of its application's beside ours.
DO $reasons$
DECLARE
    reason_column text := 'dead_reason';
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    IF EXISTS (SELECT FROM outbox_adoption WHERE 'mail_dead_reason' = ANY (added_columns)) THEN
        reason_column := 'mail_dead_reason';
    END IF;
    EXECUTE format($ddl$
        ALTER TABLE outbound_emails ADD CONSTRAINT outbound_emails_dead_reason_known CHECK
            (%I IN ('rejected', 'render', 'suppressed', 'exhausted', 'poison', 'refused', 'unreadable', 'given up'))
            NOT VALID
    $ddl$, reason_column);
END IF;
END
$reasons$;

-- migrate: rollback
ALTER TABLE outbound_emails DROP CONSTRAINT IF EXISTS outbound_emails_dead_reason_known;
