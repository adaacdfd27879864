#!/usr/bin/env bash
# Put the mail's tables back as a backup has them: deploy/restore.sh [--hold] FILE.dump, with DATABASE_URL of the owner.
# Stop the workers first, and start them afterwards. What the tables hold now is lost.
#
# Mail that was sent after the backup was made looks unsent in it, and would be sent again. --hold makes all that was due
# `uncertain` instead: nothing is lost, and nothing goes out before you have decided, with the relays' logs at hand:
#     python -m ops failed; python -m ops resolve 123 --as sent; python -m ops retry 124
set -euo pipefail

hold=''
if [ "${1:-}" = --hold ]; then hold=yes; shift; fi
[ $# = 1 ] && [ -r "$1" ] && [ -n "${DATABASE_URL:-}" ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

# Workers call their connections name@host:pid.
workers=$(psql "$DATABASE_URL" -XAtc "SELECT string_agg(DISTINCT application_name, ', ') FROM pg_stat_activity
    WHERE datname = current_database() AND application_name ~ '^.+@.+:[0-9]+$'")
[ -z "$workers" ] || { echo "restore.sh: still connected: $workers; stop the workers first" >&2; exit 1; }

contents=$(pg_restore --list "$1")
{
    # What the backup does not know is of a later version: `python -m db.migrate` makes it again, and could not beside it.
    for table in email_type_suppressions mail_alerts mail_quotas mail_quota_use email_template_contents email_template_versions mail_desk_sessions mail_history mail_history_progress mail_api_requests mail_audit mail_api_tokens email_attachments allowed_senders; do
        [[ $contents == *" TABLE public $table "* ]] || echo "DROP TABLE IF EXISTS public.$table CASCADE;"
    done
    # A backup of tables has no functions. Where the triggers of an adopted table find none, nobody else may write before
    # `python -m db.migrate` has made its own again.
    if [[ $contents == *zz_outbox_sync* ]]; then
        cat <<'STUB'
SET outbox.restoring = on;
DO $do$
DECLARE
    name text;
BEGIN
FOREACH name IN ARRAY ARRAY['outbox_sync', 'outbox_show_first', 'outbox_show_afterwards'] LOOP
    IF to_regprocedure(format('public.%I()', name)) IS NULL THEN
        EXECUTE format('CREATE FUNCTION public.%I() RETURNS trigger LANGUAGE plpgsql AS %L', name, $stub$BEGIN
            IF current_setting('outbox.restoring', true) = 'on' THEN RETURN NEW; END IF;
            RAISE 'restored from a backup: run `python -m db.migrate` first';
        END$stub$);
    END IF;
END LOOP;
END
$do$;
STUB
    fi
    # The same of the triggers that note attachments in their row, and count against quotas.
    for name in note_attachments mail_apply_quotas mail_count_quotas; do
        [[ $contents == *$name* ]] || continue
        cat <<STUB
DO \$do\$ BEGIN
IF to_regprocedure('public.$name()') IS NULL THEN
    CREATE FUNCTION public.$name() RETURNS trigger LANGUAGE plpgsql AS \$stub\$BEGIN
        RAISE 'restored from a backup: run "python -m db.migrate" first';
    END\$stub\$;
END IF;
END \$do\$;
STUB
    done
    # And of those that write events, which restoring need not tell anybody.
    if [[ $contents == *mail_webhooks_* ]]; then
        cat <<'STUB'
DO $do$
DECLARE
    name text;
BEGIN
FOREACH name IN ARRAY ARRAY['mail_webhooks_queued', 'mail_webhooks_changed'] LOOP
    IF to_regprocedure(format('public.%I()', name)) IS NULL THEN
        EXECUTE format('CREATE FUNCTION public.%I() RETURNS trigger LANGUAGE plpgsql AS %L', name,
            'BEGIN RETURN NULL; END');
    END IF;
END LOOP;
END
$do$;
STUB
    fi
    pg_restore --file=- --clean --if-exists --no-owner --no-privileges "$1"
    if [ -n "$hold" ]; then
        cat <<'SQL'
UPDATE public.mail_outbox SET status = 'uncertain', next_retry_at = NULL, claim_token = NULL, claimed_by = NULL,
    lease_expires_at = NULL, last_error = 'restored from a backup: may have been sent since'
WHERE status IN ('pending', 'sending') OR (status IN ('failed', 'uncertain') AND next_retry_at IS NOT NULL);
SQL
    fi
} | psql "$DATABASE_URL" -X -q -1 -v ON_ERROR_STOP=1 >/dev/null
echo "restored; next: python -m db.migrate, deploy/postgresql-roles.sql, then start the workers" >&2
