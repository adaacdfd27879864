-- Who logs in at the desk by an OIDC provider, and since when each is known to be the person: erasing asks for it anew.
-- depends: 0022_alerts

-- migrate: apply
ALTER TABLE mail_desk_sessions
    ALTER COLUMN token_id DROP NOT NULL,
    -- Of a session without a token: whom the provider named, and what that allows.
    ADD COLUMN person text,
    ADD COLUMN scopes text[],
    ADD COLUMN confirmed_at timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT mail_desk_sessions_is_of_somebody
        CHECK ((token_id IS NULL) = (person IS NOT NULL) AND (person IS NULL) = (scopes IS NULL));

-- migrate: rollback
DELETE FROM mail_desk_sessions WHERE token_id IS NULL;
ALTER TABLE mail_desk_sessions
    DROP CONSTRAINT mail_desk_sessions_is_of_somebody, DROP COLUMN person, DROP COLUMN scopes,
    DROP COLUMN confirmed_at, ALTER COLUMN token_id SET NOT NULL;
