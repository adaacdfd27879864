-- What alerts were about, so that several workers tell of it once, and one that restarts does not repeat it.
-- depends: 0021_quotas

-- migrate: apply
CREATE TABLE mail_alerts (
    subject text PRIMARY KEY,
    -- How bad it looked lately, see delivery/alerts/verdict.py.
    score smallint NOT NULL,
    is_down boolean NOT NULL,
    -- Since when it is down, or up.
    since timestamptz NOT NULL,
    -- When somebody was told last that it is down; NULL: nobody was.
    told_at timestamptz,
    detail text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- migrate: rollback
DROP TABLE mail_alerts;
