"""The triggers that count e-mails against quotas, and refuse those that are too many.

They run as the tables' owner: who queues mail may neither read nor write what is counted.
"""

from mail_outbox.quota import SQLSTATE

KEPT_DAYS = 31  # of mail_quota_use
LOCK_TIMEOUT = '3s'
RIGHTS = 'SECURITY DEFINER SET search_path = public, pg_temp'

# Concurrent transactions of one organisation come one after the other here, from the row's lock to
# their commit: so that it is never more. Ordered, so that two statements take the rows of several
# organisations in one order.
_COUNT_DDL = f"""
CREATE OR REPLACE FUNCTION mail_count_quotas() RETURNS trigger LANGUAGE plpgsql {RIGHTS} AS $count$
DECLARE
    tenant record;
    used bigint;
BEGIN
    FOR tenant IN
        SELECT n.organization_id, n.emails, q.emails_per_day, q.time_zone,
            (now() AT TIME ZONE q.time_zone)::date AS day
        FROM (SELECT organization_id::text AS organization_id, count(*) AS emails FROM queued
              WHERE organization_id::text <> '' GROUP BY 1) AS n
        CROSS JOIN LATERAL (
            SELECT emails_per_day, time_zone FROM mail_quotas AS m
            WHERE m.organization_id IN (n.organization_id, '*')
            ORDER BY m.organization_id = '*' LIMIT 1
        ) AS q
        WHERE q.emails_per_day IS NOT NULL
        ORDER BY n.organization_id COLLATE "C"
    LOOP
        INSERT INTO mail_quota_use AS u (organization_id, day, emails)
        VALUES (tenant.organization_id, tenant.day, tenant.emails)
        ON CONFLICT (organization_id, day) DO UPDATE SET emails = u.emails + excluded.emails
        RETURNING u.emails INTO used;
        IF used > tenant.emails_per_day THEN
            RAISE EXCEPTION 'quota: organization % may queue % e-mails a day, % are queued and % more would be; again at %',
                tenant.organization_id, tenant.emails_per_day, used - tenant.emails, tenant.emails,
                to_char((tenant.day + 1)::timestamp AT TIME ZONE tenant.time_zone
                    AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                USING ERRCODE = '{SQLSTATE}', HINT = 'python -m ops quota ls';
        END IF;
        IF used = tenant.emails THEN -- the first of a day
            DELETE FROM mail_quota_use AS u
            WHERE u.organization_id = tenant.organization_id AND u.day < tenant.day - {KEPT_DAYS};
        END IF;
    END LOOP;
    RETURN NULL;
END
$count$;
"""  # noqa: E501 - a message is one line

# Without a quota nothing is counted, and nothing asked. CREATE TRIGGER waits for those who are
# writing, and others wait behind it: not for long.
_APPLY_DDL = f"""
CREATE OR REPLACE FUNCTION mail_apply_quotas() RETURNS trigger LANGUAGE plpgsql {RIGHTS}
SET lock_timeout = '{LOCK_TIMEOUT}' AS $apply$
DECLARE
    wanted boolean := EXISTS (SELECT FROM mail_quotas WHERE emails_per_day IS NOT NULL);
    found boolean := EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'outbound_emails'::regclass
                             AND tgname = 'mail_count_quotas');
BEGIN
    IF wanted AND NOT found THEN
        CREATE TRIGGER mail_count_quotas AFTER INSERT ON outbound_emails
            REFERENCING NEW TABLE AS queued FOR EACH STATEMENT EXECUTE FUNCTION mail_count_quotas();
    ELSIF found AND NOT wanted THEN
        DROP TRIGGER mail_count_quotas ON outbound_emails;
    END IF;
    RETURN NULL;
END
$apply$;
CREATE OR REPLACE TRIGGER mail_apply_quotas AFTER INSERT OR UPDATE OR DELETE ON mail_quotas
    FOR EACH STATEMENT EXECUTE FUNCTION mail_apply_quotas();
"""

# The last puts the trigger where it is missing, or takes it away: after a restore, for example.
QUOTA_DDL = f"""
{_COUNT_DDL}
{_APPLY_DDL}
UPDATE mail_quotas SET updated_at = updated_at WHERE false;
"""
REMOVE_COUNTING_DDL = 'DROP TRIGGER IF EXISTS mail_count_quotas ON outbound_emails;'
