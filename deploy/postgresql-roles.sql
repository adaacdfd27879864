-- Who may do what in the mail's tables, for people who want each program to have no more rights than it needs. Run it in
-- the application's database, as the tables' owner or as superuser, after every `python -m db.migrate`:
--
--     psql -d app -1 -v ON_ERROR_STOP=1 -f deploy/postgresql-roles.sql
--
-- It may be run again at any time and then sets exactly these rights. Nobody can log in before a password is set:
-- `\password email_worker`, or peer or certificate authentication in pg_hba.conf. Migrations are the owner's alone.

DO $roles$
DECLARE
    role text;
    sequence text;
BEGIN
    FOREACH role IN ARRAY ARRAY['email_worker', 'email_web', 'email_api', 'email_readonly', 'email_producer',
        'email_ingress'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM %I', role);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role);
    END LOOP;
    -- An adopted table's ids come from a sequence of another name, or from an identity, which needs no right.
    sequence := pg_get_serial_sequence('outbound_emails', 'id');
    IF sequence IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO email_producer, email_web, email_api, email_ingress', sequence);
    END IF;
    -- Where service_health was the application's before, mail_service_health is a table beside it, else a view of it.
    FOR sequence IN
        SELECT pg_get_serial_sequence(name, 'id') FROM unnest(ARRAY['service_health', 'mail_service_health']) AS t (name)
        WHERE EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(name) AND relkind = 'r')
    LOOP
        IF sequence IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO email_worker', sequence);
        END IF;
    END LOOP;
END
$roles$;

-- The worker reads mail and writes what became of it. It can neither queue mail nor change whom it goes to or what it
-- says. It deletes what is past its retention.
-- All of it goes by way of the view mail_outbox, whose columns are the same whatever the application's table is like.
GRANT SELECT, DELETE ON mail_outbox TO email_worker;
GRANT UPDATE (status, attempts, max_attempts, next_retry_at, expires_at, sent_at, last_attempt_at, updated_at,
    message_id, message_date, claim_token, claimed_by, claimed_at, lease_expires_at, lost_attempts,
    relay, smtp_code, smtp_response, enhanced_code, last_error, dead_reason, recipient_outcomes,
    feedback_at, feedback)
    ON mail_outbox TO email_worker;
-- With EMAIL_DROP_CONTENT it deletes what was sent; without this grant the content stays, and its log says so:
--     GRANT UPDATE (body_text, body_html, template_data, calendar, raw_message, content_id) ON mail_outbox TO email_worker;
GRANT SELECT ON outbound_emails TO email_worker;
GRANT SELECT, INSERT, DELETE ON email_attempts TO email_worker;
-- A result that comes after its attempt was recorded as lost says what became of it.
GRANT UPDATE (outcome, phase, relay, smtp_code, enhanced_code, reply, error, duration_ms, recorded_at)
    ON email_attempts TO email_worker;
GRANT SELECT ON email_templates, mail_switches, email_suppressions, email_type_suppressions, _pogo_migration
    TO email_worker;
-- Who bounces or complains gets no more mail.
GRANT INSERT, UPDATE ON email_suppressions TO email_worker;
GRANT SELECT, INSERT, DELETE, UPDATE (email_id, recipient, look_at, applied_at, effect) ON email_feedback TO email_worker;
GRANT SELECT, DELETE ON email_attachments TO email_worker;
-- A worker adds the address of its SMTP_FROM_EMAIL, which it may use anyway.
GRANT SELECT, INSERT ON allowed_senders TO email_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON cron_runs TO email_worker;
GRANT SELECT, INSERT, DELETE ON service_health, mail_service_health TO email_worker;
GRANT SELECT ON outbox_adoption TO email_worker;
GRANT SELECT, INSERT, UPDATE ON table_origins TO email_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_history TO email_worker;
GRANT SELECT, UPDATE ON mail_history_progress TO email_worker;
GRANT SELECT (at), DELETE ON mail_audit TO email_worker;
GRANT SELECT (owner, idempotency_key, created_at), DELETE ON mail_api_requests TO email_worker;
-- It posts events, signed with the secrets; who writes them is a trigger with its owner's rights.
GRANT SELECT, UPDATE (failures, failing_since, cool_until, last_error, last_delivered_at, enabled, disabled_reason,
    given_up, given_up_at) ON mail_webhooks TO email_worker;
GRANT SELECT, UPDATE, DELETE ON mail_webhook_deliveries TO email_worker;
-- Of sessions and tokens that this program made it sees when they end, not whose they are. For the application's own that
-- CLEANUP_SESSION_TABLES names, GRANT SELECT, DELETE; and SELECT on tables whose foreign keys refer to them, or to
-- outbound_emails.
DO $sessions$
DECLARE
    made text;
BEGIN
    FOR made IN SELECT to_regclass(name)::text FROM table_origins
                WHERE made_here AND name IN ('sessions', 'refresh_tokens') AND to_regclass(name) IS NOT NULL LOOP
        EXECUTE format('GRANT SELECT (created_at, expires_at), DELETE ON %s TO email_worker', made);
    END LOOP;
END
$sessions$;

-- The operators' desk: `python -m ops` where it changes something. It reads everything about mail,
-- lets mail be sent again or not at all, pauses, suppresses, and queues test mail.
GRANT SELECT ON outbound_emails, mail_outbox, email_attempts, email_templates, mail_switches, email_suppressions,
    email_type_suppressions, cron_runs,
    service_health, mail_service_health, outbox_adoption, table_origins, allowed_senders, email_attachments,
    mail_history, mail_history_progress, _pogo_migration TO email_web;
GRANT UPDATE (status, max_attempts, next_retry_at, expires_at, sent_at, updated_at, lost_attempts, last_error,
    dead_reason, idempotency_key, has_attachments, feedback_at, feedback) ON mail_outbox TO email_web;
GRANT INSERT, DELETE ON mail_switches TO email_web;
GRANT INSERT, UPDATE, DELETE ON email_suppressions, email_type_suppressions TO email_web;
GRANT INSERT, DELETE ON allowed_senders TO email_web;
-- It makes and revokes tokens of the HTTP API. Nobody changes what the audit says: an entry is completed once.
GRANT SELECT, INSERT, UPDATE (revoked_at) ON mail_api_tokens TO email_web;
GRANT SELECT, INSERT, UPDATE (finished_at, email_ids, problem) ON mail_audit TO email_web, email_api;
GRANT USAGE ON SEQUENCE mail_api_tokens_id_seq TO email_web;
GRANT USAGE ON SEQUENCE mail_audit_id_seq TO email_web, email_api;

-- Where events go, and posting them again. A rotation keeps the secret that was there: nothing else reads it.
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_webhooks TO email_web, email_api;
GRANT SELECT, INSERT (webhook_id, event_type, payload, dead_at),
    UPDATE (status, attempts, next_retry_at, dead_at, claim_token, claimed_by, ended_at)
    ON mail_webhook_deliveries TO email_web, email_api;
GRANT USAGE ON SEQUENCE mail_webhooks_id_seq, mail_webhook_deliveries_id_seq TO email_web, email_api;

-- The web server: the desk, the metrics and the HTTP API. It queues mail, changes its state and its recipient, pauses,
-- suppresses and allows senders as operators do, for who has logged in or has a token. It revokes tokens, and makes none.
GRANT SELECT ON outbound_emails, mail_outbox, email_attempts, email_templates, mail_switches, email_suppressions,
    email_type_suppressions, cron_runs,
    service_health, mail_service_health, outbox_adoption, table_origins, allowed_senders, email_attachments,
    mail_history, mail_history_progress, _pogo_migration, mail_api_tokens TO email_api;
GRANT UPDATE (status, max_attempts, next_retry_at, expires_at, sent_at, updated_at, lost_attempts, last_error,
    dead_reason, idempotency_key, has_attachments, feedback_at, feedback) ON mail_outbox TO email_api;
GRANT UPDATE (recipient, recipient_outcomes) ON mail_outbox TO email_web, email_api;
-- What comes back: `python -m ops bounce`, and the web server for providers' webhooks.
GRANT SELECT, INSERT, UPDATE (email_id, recipient, look_at, applied_at, effect) ON email_feedback TO email_web, email_api;
GRANT INSERT, DELETE ON mail_switches, allowed_senders TO email_api;
GRANT INSERT, UPDATE, DELETE ON email_suppressions, email_type_suppressions TO email_api;
GRANT UPDATE (last_used_at, revoked_at) ON mail_api_tokens TO email_api;
GRANT SELECT, INSERT, DELETE, UPDATE (confirmed_at) ON mail_desk_sessions TO email_web, email_api;
GRANT SELECT, INSERT, UPDATE (digest, answer, created_at) ON mail_api_requests TO email_api;
GRANT SELECT ON mail_api_requests TO email_web;

-- Alerts: what was told of, by a worker and by the doctor.
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_alerts TO email_worker, email_web;

-- Quotas: operators set them, a trigger counts for everybody, see db/quota_triggers.py.
GRANT SELECT ON mail_quotas, mail_quota_use TO email_web, email_api, email_readonly;
GRANT INSERT, UPDATE, DELETE ON mail_quotas TO email_web;

-- A look, and nothing else: the web page without its API, `python -m ops status`, failed, show. Recipients and bodies are personal data.
GRANT SELECT ON outbound_emails, mail_outbox, email_attempts, email_templates, mail_switches, email_suppressions,
    email_type_suppressions, cron_runs,
    service_health, mail_service_health, outbox_adoption, table_origins, allowed_senders, email_attachments,
    mail_history, mail_history_progress, email_feedback, _pogo_migration TO email_readonly;
GRANT SELECT (id, url, description, event_types, organization_id, enabled, disabled_reason, created_at, created_by,
    failures, failing_since, cool_until, last_error, last_delivered_at, previous_secret_until,
    given_up, given_up_at) ON mail_webhooks TO email_readonly;
GRANT SELECT ON mail_webhook_deliveries TO email_readonly;
ALTER ROLE email_readonly SET default_transaction_read_only = on;

-- An application that queues mail, by queue_email or by plain INSERT, and reads back what became of it: states and replies, no
-- contents.
-- (ON CONFLICT, which makes a repeated key return the first id, wants the right to update the key.)
DO $queue$
DECLARE
    granted text;
    wanted text[] := '{recipient, subject, body_text, body_html, email_type, template_id, template_data, headers, content_id,
        priority, status, max_attempts, next_retry_at, expires_at, user_id, organization_id, idempotency_key, created_at,
        updated_at, from_address, sender_address, envelope_from, reply_to, cc, bcc, one_copy_each, tags, metadata,
        has_attachments, calendar, raw_message, message_id, content_digest, queued_by}';
BEGIN
    -- Of the application's own table those that it has.
    SELECT string_agg(quote_ident(attname), ', ') INTO granted FROM pg_attribute
    WHERE attrelid = 'outbound_emails'::regclass AND attname = ANY(wanted) AND NOT attisdropped;
    EXECUTE format('GRANT INSERT (%s) ON outbound_emails TO email_producer, email_web, email_api, email_ingress', granted);
    EXECUTE format('GRANT INSERT (%s) ON mail_outbox TO email_producer, email_web, email_api, email_ingress',
        array_to_string(wanted, ', '));
END
$queue$;
-- (The trigger of email_attachments notes in the row that it has some.)
GRANT SELECT (id, organization_id, idempotency_key, content_digest, has_attachments, status, dead_reason, attempts,
    next_retry_at, expires_at, sent_at, message_id, relay, smtp_code, smtp_response, last_error, recipient_outcomes,
    feedback_at, feedback),
    UPDATE (idempotency_key, has_attachments) ON mail_outbox TO email_producer;
GRANT SELECT ON email_attempts TO email_producer;
GRANT SELECT (email_id, position), INSERT ON email_attachments TO email_producer, email_web, email_api;
-- Whom not to queue for, and templates by their names; the reasons on the list are for who asks.
GRANT SELECT (address, email_type, reason, expires_at) ON email_type_suppressions TO email_producer;
GRANT SELECT (address, reason, expires_at) ON email_suppressions TO email_producer;
GRANT SELECT ON allowed_senders TO email_producer;
DO $names$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = 'email_templates'::regclass
                AND attname IN ('id', 'name') AND NOT attisdropped LOOP
        EXECUTE format('GRANT SELECT (%I) ON email_templates TO email_producer', name);
    END LOOP;
END
$names$;
GRANT SELECT (id) ON outbound_emails TO email_producer;

-- The SMTP ingress: it queues mail as an application does, for who may be its sender, and reads no mail. It knows tokens.
GRANT SELECT (id, organization_id, idempotency_key, content_digest), UPDATE (idempotency_key) ON mail_outbox TO email_ingress;
-- Reports of what came back it only stores: a worker reads them.
GRANT SELECT (report_key, email_id), INSERT ON email_feedback TO email_ingress;
GRANT SELECT ON allowed_senders, mail_api_tokens, outbox_adoption, _pogo_migration TO email_ingress;
GRANT UPDATE (last_used_at) ON mail_api_tokens TO email_ingress;

-- Templates that are pushed: everybody who sends or looks reads them; operators, and who administers over HTTP, add and
-- remove versions. What stands in an older row of email_templates stays as it is.
GRANT SELECT ON email_template_versions, email_template_contents TO email_worker, email_web, email_api, email_readonly;
GRANT INSERT, DELETE ON email_templates, email_template_versions, email_template_contents TO email_web, email_api;
GRANT UPDATE (sample) ON email_template_versions TO email_web, email_api;
GRANT INSERT (locale, template_version, traceparent) ON mail_outbox TO email_producer, email_web, email_api, email_ingress;
DO $templates$
DECLARE
    sequence text := pg_get_serial_sequence('email_templates', 'id');
    name text;
BEGIN
    IF sequence IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO email_web, email_api', sequence);
    END IF;
    FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass
                AND attname IN ('locale', 'template_version', 'traceparent') AND NOT attisdropped LOOP
        EXECUTE format('GRANT INSERT (%I) ON outbound_emails TO email_producer, email_web, email_api, email_ingress', name);
    END LOOP;
END
$templates$;

-- `python -m ops erase`, and the desk for who administers and has just shown who it is: what is held on a person goes, also
-- where the audit names one.
GRANT DELETE ON mail_outbox, email_attempts, email_feedback, email_attachments, mail_api_requests, mail_webhook_deliveries
    TO email_web, email_api;
GRANT UPDATE (recipient, cc, bcc, subject, body_text, body_html, calendar, from_address, sender_address, envelope_from,
    reply_to, smtp_response, last_error, feedback, template_data, headers, tags, metadata, recipient_outcomes)
    ON mail_outbox TO email_web, email_api;
GRANT SELECT, UPDATE (reply, error) ON email_attempts TO email_web, email_api;
GRANT UPDATE (details) ON mail_audit TO email_web, email_api;
