-- Check the dead reasons of all rows against the list of 0007, without locking anybody out.
-- depends: 0007_dead_reasons

-- migrate: apply
-- This program never wrote another word, so an operator did who gave the e-mail up: the word is kept in last_error.
DO $reasons$
DECLARE
    known constant text[] := ARRAY['rejected', 'render', 'suppressed', 'exhausted', 'poison', 'refused', 'unreadable',
                                   'given up'];
    reason_column text := 'dead_reason';
    error_column text := 'last_error';
BEGIN
IF EXISTS (SELECT FROM pg_constraint
           WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_dead_reason_known') THEN
    IF EXISTS (SELECT FROM outbox_adoption WHERE 'mail_dead_reason' = ANY (added_columns)) THEN
        reason_column := 'mail_dead_reason';
    END IF;
    IF EXISTS (SELECT FROM outbox_adoption WHERE 'mail_last_error' = ANY (added_columns)) THEN
        error_column := 'mail_last_error';
    END IF;
    EXECUTE format('UPDATE outbound_emails SET %2$I = concat_ws(''; '', %2$I, %1$I), %1$I = ''given up'' '
                   'WHERE %1$I <> ALL ($1)', reason_column, error_column) USING known;
    ALTER TABLE outbound_emails VALIDATE CONSTRAINT outbound_emails_dead_reason_known;
END IF;
END
$reasons$;

-- migrate: rollback
SELECT 1;
