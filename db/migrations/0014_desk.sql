-- Who is logged in at the desk, who may administer, and what makes a form that is sent twice one change.
-- depends: 0013_tenants

-- migrate: apply
ALTER TABLE mail_api_tokens DROP CONSTRAINT mail_api_tokens_scopes_known;
ALTER TABLE mail_api_tokens ADD CONSTRAINT mail_api_tokens_scopes_known
    CHECK (scopes <> '{}' AND scopes <@ ARRAY['send', 'read', 'operate', 'administer']);

CREATE TABLE mail_desk_sessions (
    -- SHA-256 of what the cookie holds: who reads this table cannot use it.
    session_hash bytea PRIMARY KEY,
    token_id bigint NOT NULL REFERENCES mail_api_tokens ON DELETE CASCADE,
    origin text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT mail_desk_sessions_hash_is_sha256 CHECK (octet_length(session_hash) = 32)
);

-- A form carries a key of its own: the second time it is sent, the first entry is the answer.
ALTER TABLE mail_audit ADD COLUMN request_key text;
CREATE UNIQUE INDEX mail_audit_request ON mail_audit (request_key) WHERE request_key IS NOT NULL;

-- migrate: rollback
ALTER TABLE mail_audit DROP COLUMN request_key;
DROP TABLE mail_desk_sessions;
UPDATE mail_api_tokens SET scopes = array_remove(scopes, 'administer') WHERE scopes <> ARRAY['administer'];
DELETE FROM mail_api_tokens WHERE scopes = ARRAY['administer'];
ALTER TABLE mail_api_tokens DROP CONSTRAINT mail_api_tokens_scopes_known;
ALTER TABLE mail_api_tokens ADD CONSTRAINT mail_api_tokens_scopes_known
    CHECK (scopes <> '{}' AND scopes <@ ARRAY['send', 'read', 'operate']);
