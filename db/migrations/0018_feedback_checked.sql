-- Check the states of all rows against the list of 0017, without locking anybody out.
-- depends: 0017_feedback

-- migrate: apply
DO $states$
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    ALTER TABLE outbound_emails VALIDATE CONSTRAINT outbound_emails_status_known;
END IF;
END
$states$;

-- migrate: rollback
SELECT 1;
