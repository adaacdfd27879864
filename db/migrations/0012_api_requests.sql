-- Requests over HTTP that had an Idempotency-Key: the same again gets the first answer.
-- depends: 0011_idempotency

-- migrate: apply
CREATE TABLE mail_api_requests (
    -- Whose key it is: an organisation, or a token of the whole installation, see web/api/resend.
    owner text NOT NULL,
    idempotency_key text NOT NULL,
    -- SHA-256 of the path and the body.
    digest bytea NOT NULL,
    -- As it was sent. NULL only before the transaction that queues the e-mails commits.
    answer text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, idempotency_key),
    CONSTRAINT mail_api_requests_key_short CHECK (char_length(idempotency_key) BETWEEN 1 AND 256)
) WITH (
    -- Room for the answer, which comes after the key: the row stays on its page, and the indexes as they are.
    fillfactor = 70
);
CREATE INDEX mail_api_requests_created ON mail_api_requests (created_at);

-- migrate: rollback
DROP TABLE mail_api_requests;
