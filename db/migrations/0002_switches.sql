-- What operators have paused, and slots of cron duties that were skipped because of it.
-- depends: 0001_outbox

-- migrate: apply
-- In PostgreSQL, so that a pause outlives every restart, and a Redis that was emptied.
CREATE TABLE mail_switches (
    kind text NOT NULL,
    name text NOT NULL,
    reason text,
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text NOT NULL,
    PRIMARY KEY (kind, name),
    CONSTRAINT mail_switches_kind_known CHECK (kind IN ('queue', 'relay', 'email_type', 'cron')),
    CONSTRAINT mail_switches_name_short CHECK (char_length(name) BETWEEN 1 AND 200)
);

ALTER TABLE cron_runs
    DROP CONSTRAINT cron_runs_outcome_known,
    ADD CONSTRAINT cron_runs_outcome_known CHECK (outcome IN ('done', 'error', 'skipped'));

-- migrate: rollback
DROP TABLE mail_switches;
DELETE FROM cron_runs WHERE outcome = 'skipped';
ALTER TABLE cron_runs
    DROP CONSTRAINT cron_runs_outcome_known,
    ADD CONSTRAINT cron_runs_outcome_known CHECK (outcome IN ('done', 'error'));
