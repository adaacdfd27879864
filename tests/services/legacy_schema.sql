-- The tables as an application with Celery had them: integer ids, local times, no NOT NULL where an ORM forgot it.
-- __STATUS__ stands for the type of the status column.
CREATE TABLE outbound_emails (
    id serial PRIMARY KEY,
    recipient varchar(255) NOT NULL,
    subject varchar(500),
    body_text text,
    body_html text,
    email_type varchar(50),
    template_id varchar(100),
    template_data json,
    status __STATUS__ DEFAULT 'pending',
    smtp_response text,
    smtp_code integer,
    attempts integer,
    max_attempts integer,
    next_retry_at timestamp,
    last_attempt_at timestamp,
    sent_at timestamp,
    expires_at timestamp,
    user_id uuid,
    organization_id uuid,
    created_at timestamp DEFAULT now(),
    updated_at timestamp
);
CREATE INDEX ix_outbound_emails_status ON outbound_emails (status);
CREATE INDEX ix_outbound_emails_next_retry_at ON outbound_emails (next_retry_at);

CREATE TABLE email_templates (
    id varchar(100) PRIMARY KEY,
    name varchar(100) NOT NULL,
    subject varchar(500),
    body_text text,
    body_html text
);
CREATE TABLE sessions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, created_at timestamp, expires_at timestamp);
CREATE TABLE refresh_tokens (id serial PRIMARY KEY, token text, created_at timestamp, expires_at timestamp);
CREATE TABLE service_health (
    id serial PRIMARY KEY,
    service_name varchar(50) NOT NULL,
    status varchar(20) NOT NULL,
    response_time_ms integer,
    error_message text,
    checked_at timestamp DEFAULT now()
);
