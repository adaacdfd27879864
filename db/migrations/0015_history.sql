-- What became of e-mails, counted by minute and by hour, so that nobody counts attempts anew for every look.
-- depends: 0014_desk

-- migrate: apply
-- When PostgreSQL learned of an attempt; NULL for those of before this version. The minutes of started_at are never
-- complete: an attempt that began an hour ago may end now. Not now(), which is when the transaction began: what has this
-- time has taken its lock before it, see db/history.py. The default comes in a second step, so no row is rewritten.
ALTER TABLE email_attempts ADD COLUMN recorded_at timestamptz;
ALTER TABLE email_attempts ALTER COLUMN recorded_at SET DEFAULT clock_timestamp();
-- Pages that no vacuum has summarized yet would be read by everybody who asks for the last minutes.
CREATE INDEX email_attempts_recorded ON email_attempts USING brin (recorded_at) WITH (autosummarize = on);
ALTER INDEX email_attempts_started SET (autosummarize = on);

-- See db/history.py for what a dimension's names are.
CREATE TABLE mail_history (
    span_s integer NOT NULL, -- how long a time a row counts: 60 or 3600
    dimension text NOT NULL,
    at timestamptz NOT NULL, -- its beginning
    name text NOT NULL,
    outcome text NOT NULL,
    attempts bigint NOT NULL,
    PRIMARY KEY (span_s, dimension, at, name, outcome),
    CONSTRAINT mail_history_span_known CHECK (span_s IN (60, 3600))
) WITH (fillfactor = 70);

CREATE TABLE mail_history_progress (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    counted_until timestamptz NOT NULL, -- every attempt recorded before it is counted, once
    filled_back_to timestamptz, -- as are those of before this version that began after it; NULL: all that are wanted
    waiting jsonb, -- the last count of what waits, see db/waiting.py
    waiting_counted_at timestamptz,
    waiting_tried_at timestamptz,
    waiting_took_s double precision
) WITH (fillfactor = 10);
INSERT INTO mail_history_progress (counted_until, filled_back_to)
SELECT date_trunc('minute', now()),
    CASE WHEN EXISTS (SELECT FROM email_attempts) THEN date_trunc('minute', now()) + interval '1 minute' END;

-- migrate: rollback
DROP TABLE mail_history, mail_history_progress;
ALTER TABLE email_attempts DROP COLUMN recorded_at;
ALTER INDEX email_attempts_started RESET (autosummarize);
