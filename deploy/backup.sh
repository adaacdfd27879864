#!/usr/bin/env bash
# Back up the mail's tables, in one consistent snapshot while everything runs: deploy/backup.sh DIRECTORY
#
#   DATABASE_URL   a role that may read all of them: the owner
#   REDIS_URL      optional: also the queue's Redis, as a user that may replicate: admin. Password in REDISCLI_AUTH
#
# Redis holds wake-ups and results of the last hour. A Redis that is lost costs neither: what is due is found again.
# Needs pg_dump of the server's version or newer.
set -euo pipefail

[ $# = 1 ] && [ -d "$1" ] && [ -n "${DATABASE_URL:-}" ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
umask 077 # recipients and bodies are personal data
name=$(date -u +%Y%m%dT%H%M%SZ)

# All tables of the mail that this version has; the application's others are its own business.
pg_dump --dbname="$DATABASE_URL" --format=custom --no-owner --no-privileges --file="$1/.mail-$name.part" \
    --table=email_template_versions --table=email_template_contents \
    --table=outbound_emails --table=email_attempts --table=email_templates --table=email_suppressions \
    --table=email_type_suppressions \
    --table=mail_switches --table=cron_runs --table=service_health --table=mail_service_health \
    --table=mail_outbox --table=outbox_adoption --table=table_origins --table=mail_api_tokens --table=mail_audit \
    --table=allowed_senders --table=email_attachments --table=mail_api_requests --table=email_feedback \
    --table=mail_history --table=mail_history_progress --table='_pogo_*' \
    --table=mail_webhooks --table=mail_webhook_deliveries \
    --table=mail_quotas --table=mail_quota_use --table=mail_alerts \
    --table=mail_desk_sessions --exclude-table-data=mail_desk_sessions # everybody logs in again
mv "$1/.mail-$name.part" "$1/mail-$name.dump"
echo "$1/mail-$name.dump"

if [ -n "${REDIS_URL:-}" ]; then
    # redis-cli takes the user of an address without a password for the password.
    asked=(-u "$REDIS_URL")
    if [[ $REDIS_URL =~ ^(rediss?://)([^:@/]+)@(.*)$ ]]; then
        asked=(-u "${BASH_REMATCH[1]}${BASH_REMATCH[3]}" --user "${BASH_REMATCH[2]}")
    fi
    redis-cli "${asked[@]}" --no-auth-warning --rdb "$1/.queue-$name.part" >&2
    mv "$1/.queue-$name.part" "$1/queue-$name.rdb"
    echo "$1/queue-$name.rdb"
fi
