-- Versions of pushed templates, and which locale and version an e-mail wants.
-- depends: 0019_webhooks

-- migrate: apply
DO $free$
BEGIN
IF to_regclass('email_template_versions') IS NOT NULL OR to_regclass('email_template_contents') IS NOT NULL THEN
    RAISE EXCEPTION 'there is a table email_template_versions or email_template_contents, and this program makes one'
        USING HINT = 'rename it';
END IF;
END
$free$;

-- template_id is email_templates.id as text: an adopted table's may be of any type. Without a version, what stands in
-- email_templates is what is sent.
CREATE TABLE email_template_versions (
    template_id text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    digest bytea NOT NULL,
    sample jsonb NOT NULL DEFAULT '{}', -- what previews are filled with
    made_row boolean NOT NULL, -- the first push made the row in email_templates
    pushed_at timestamptz NOT NULL DEFAULT now(),
    pushed_by text,
    PRIMARY KEY (template_id, version)
);

-- What a version says in one locale: a language tag in lower case, or 'default'.
CREATE TABLE email_template_contents (
    template_id text NOT NULL,
    version integer NOT NULL,
    locale text NOT NULL,
    content jsonb NOT NULL, -- see mail/template/pushed.py
    PRIMARY KEY (template_id, version, locale),
    FOREIGN KEY (template_id, version) REFERENCES email_template_versions ON DELETE CASCADE
);

-- An adopted table that is not finished yet gets its columns from db/adoption; one that is finished may have columns of
-- its application's under such names, and ours are called mail_<name> then.
DO $columns$
DECLARE
    wanted record;
    added text[] := '{}';
    column_name text;
BEGIN
IF NOT EXISTS (SELECT FROM pg_constraint
               WHERE conrelid = 'outbound_emails'::regclass AND conname = 'outbound_emails_status_known') THEN
    RETURN;
END IF;
FOR wanted IN SELECT * FROM (VALUES ('locale', 'text'), ('template_version', 'integer')) AS w (name, type) LOOP
    column_name := wanted.name;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'outbound_emails'::regclass
               AND attname = wanted.name AND NOT attisdropped) THEN
        column_name := 'mail_' || wanted.name;
    END IF;
    EXECUTE format('ALTER TABLE outbound_emails ADD COLUMN %I %s', column_name, wanted.type);
    added := added || column_name;
END LOOP;
UPDATE outbox_adoption SET added_columns = added_columns || added;
END
$columns$;

-- migrate: rollback
DROP TABLE email_template_contents, email_template_versions;
