-- The index of the e-mails that wait for an operator; an adopted table gets it with its others, in its own names.
-- depends: 0005_states_checked

-- migrate: apply
DO $held$
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    CREATE INDEX IF NOT EXISTS outbound_emails_held ON outbound_emails (created_at) WHERE status = 'held';
END IF;
END
$held$;

-- migrate: rollback
DROP INDEX IF EXISTS outbound_emails_held;
