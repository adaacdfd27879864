-- The indexes by which an e-mail is found, see db/adoption/indexes.py; db.migrate builds them after this file.
-- depends: 0026_desk_people

-- migrate: apply
SELECT 1;

-- migrate: rollback
DROP INDEX IF EXISTS outbound_emails_recipient, outbound_emails_several, outbound_emails_other;
