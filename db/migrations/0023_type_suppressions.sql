-- Addresses that get no mail of one type: they unsubscribed from it. What else is for them goes out.
-- depends: 0022_alerts

-- migrate: apply
DO $free$
BEGIN
IF to_regclass('email_type_suppressions') IS NOT NULL THEN
    RAISE EXCEPTION 'there is a table email_type_suppressions, and this program makes one' USING HINT = 'rename it';
END IF;
END
$free$;

-- Beside email_suppressions and not in it: a program of the version before, which still runs during an update, takes each
-- row there for one about all mail.
CREATE TABLE email_type_suppressions (
    address text NOT NULL, -- a key as in email_suppressions
    email_type text NOT NULL,
    reason text NOT NULL,
    source text NOT NULL DEFAULT 'operator',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    expires_at timestamptz,
    PRIMARY KEY (address, email_type),
    CONSTRAINT email_type_suppressions_address_normalised
        CHECK (address = lower(address) AND address ~ '@[^@[:space:]]+$'),
    CONSTRAINT email_type_suppressions_type_short CHECK (char_length(email_type) BETWEEN 1 AND 200)
);

-- migrate: rollback
DROP TABLE email_type_suppressions;
