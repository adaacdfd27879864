-- An application's tables. STATUS_TYPE, STATUS_CHECK, TIMESTAMP, ID_TYPE and OPTIONAL_COLUMNS differ between variants.
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email varchar(255) NOT NULL UNIQUE);

-- As SQLAlchemy's create_all makes it: NOT NULL where the class has no Optional, and defaults in the class alone.
CREATE TABLE outbound_emails (
    id ID_TYPE PRIMARY KEY,
    recipient varchar(255) NOT NULL,
    subject varchar(500),
    body_text text,
    body_html text,
    status STATUS_TYPE NOT NULL STATUS_CHECK,
    attempts integer NOT NULL,
    max_attempts integer NOT NULL,
    next_retry_at TIMESTAMP,
    created_at TIMESTAMP NOT NULL
    OPTIONAL_COLUMNS
);
CREATE INDEX ix_outbound_emails_status ON outbound_emails (status);
CREATE INDEX ix_outbound_emails_next_retry_at ON outbound_emails (next_retry_at);
CREATE INDEX ix_outbound_emails_created_at ON outbound_emails (created_at);

-- A dashboard's history, kept by a trigger, and what refers to an e-mail.
CREATE TABLE email_audit (
    id bigserial PRIMARY KEY, email_id bigint NOT NULL, old_status text, new_status text, at timestamp DEFAULT now()
);
CREATE FUNCTION note_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO email_audit (email_id, old_status, new_status) VALUES (NEW.id, OLD.status::text, NEW.status::text);
    RETURN NEW;
END $$;
CREATE TRIGGER note_status AFTER UPDATE OF status ON outbound_emails
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_status();
CREATE TABLE invoices (id serial PRIMARY KEY, email_id bigint NOT NULL REFERENCES outbound_emails (id));

-- Tables that happen to have the names of ours.
CREATE TABLE sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, token varchar(64) NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(), expires_at timestamp
);
CREATE TABLE refresh_tokens (id serial PRIMARY KEY, token varchar(64) NOT NULL, revoked boolean NOT NULL DEFAULT false);
CREATE TABLE service_health (
    id serial PRIMARY KEY, service varchar(50) NOT NULL, healthy boolean NOT NULL, checked_at timestamp NOT NULL
);

INSERT INTO sessions (token, created_at, expires_at)
SELECT 's' || n, now() - interval '400 days',
    CASE n % 3 WHEN 0 THEN now() - interval '300 days' WHEN 1 THEN now() + interval '30 days' END
FROM generate_series(1, 40) AS n;
INSERT INTO refresh_tokens (token) SELECT 't' || n FROM generate_series(1, 40) AS n;
INSERT INTO service_health (service, healthy, checked_at)
SELECT 'smtp', true, now() - n * interval '10 days' FROM generate_series(1, 40) AS n;
