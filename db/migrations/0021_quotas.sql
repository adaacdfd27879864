-- How many e-mails an organisation may queue in a day. A trigger of outbound_emails counts them, see db/quota_triggers.py.
-- depends: 0020_templates

-- migrate: apply
CREATE TABLE mail_quotas (
    -- '*' stands for each organisation that has no row of its own.
    organization_id text PRIMARY KEY,
    -- NULL: as many as it likes, where '*' has a number.
    emails_per_day bigint,
    -- In which a day begins at midnight, as PostgreSQL knows it.
    time_zone text NOT NULL DEFAULT 'UTC',
    created_by text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mail_quotas_organization_named CHECK (char_length(organization_id) BETWEEN 1 AND 255),
    CONSTRAINT mail_quotas_not_negative CHECK (emails_per_day >= 0),
    CONSTRAINT mail_quotas_zone_known CHECK (now() AT TIME ZONE time_zone IS NOT NULL)
);

-- Written by the trigger alone, and only for who has a quota.
CREATE TABLE mail_quota_use (
    organization_id text NOT NULL,
    day date NOT NULL,
    emails bigint NOT NULL,
    PRIMARY KEY (organization_id, day)
) WITH (fillfactor = 20);

-- migrate: rollback
DROP TABLE mail_quotas, mail_quota_use;
DROP FUNCTION IF EXISTS mail_apply_quotas();
DROP FUNCTION IF EXISTS mail_count_quotas() CASCADE;
