-- The index outbound_emails_tenants, see db/fairness.py; db.migrate builds it after this file, without holding up writers.
-- depends: 0012_api_requests

-- migrate: apply
SELECT 1;

-- migrate: rollback
DROP INDEX IF EXISTS outbound_emails_tenants;
