-- Addresses that get no mail: they bounced, complained, or asked for it.
-- depends: 0002_switches

-- migrate: apply
-- An address as it stands in the envelope, in lower case, or '@example.com' for a whole domain.
CREATE TABLE email_suppressions (
    address text PRIMARY KEY,
    reason text NOT NULL,
    source text NOT NULL DEFAULT 'operator',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    expires_at timestamptz,
    -- A key in another form would never be found.
    CONSTRAINT email_suppressions_address_normalised CHECK (address = lower(address) AND address ~ '@[^@[:space:]]+$')
);

-- migrate: rollback
DROP TABLE email_suppressions;
