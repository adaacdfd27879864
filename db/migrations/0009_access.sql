-- Who may use the HTTP API, and who changed what.
-- depends: 0008_dead_reasons_checked

-- migrate: apply
CREATE TABLE mail_api_tokens (
    id bigserial PRIMARY KEY,
    name text NOT NULL,
    -- SHA-256 of the token: who reads this table cannot use it.
    token_hash bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    -- As text: an adopted table's organisations may be numbers, UUIDs or words.
    organization_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT mail_api_tokens_scopes_known CHECK (scopes <> '{}' AND scopes <@ ARRAY['send', 'read', 'operate']),
    CONSTRAINT mail_api_tokens_name_short CHECK (char_length(name) BETWEEN 1 AND 100),
    CONSTRAINT mail_api_tokens_hash_is_sha256 CHECK (octet_length(token_hash) = 32)
);
-- A name is free again when its token was revoked.
CREATE UNIQUE INDEX mail_api_tokens_name ON mail_api_tokens (name) WHERE revoked_at IS NULL;

-- Written before the change and completed after it: a change whose program died between has no finished_at.
CREATE TABLE mail_audit (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    token_id bigint,
    origin text NOT NULL,
    action text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    email_ids bigint[] NOT NULL DEFAULT '{}',
    finished_at timestamptz,
    problem text
);
CREATE INDEX mail_audit_at ON mail_audit USING brin (at);

-- migrate: rollback
DROP TABLE mail_audit;
DROP TABLE mail_api_tokens;
