-- How many events an endpoint has lost until somebody replays them: counted where they are given up, so that no look counts anew.
-- depends: 0026_desk_people

-- migrate: apply
ALTER TABLE mail_webhooks
    ADD COLUMN given_up bigint NOT NULL DEFAULT 0, -- since a day without any, and not replayed
    ADD COLUMN given_up_at timestamptz; -- the last one

-- migrate: rollback
ALTER TABLE mail_webhooks DROP COLUMN given_up, DROP COLUMN given_up_at;
