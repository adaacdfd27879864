-- A template's id by its name, for plain SQL: INSERT INTO outbound_emails (..., template_id) VALUES (..., mail_template('welcome')).
-- depends: 0023_type_suppressions

-- migrate: apply
-- An adopted email_templates has an id of any type, and maybe no name: then the one of `without` is it, which names nothing.
DO $make$
BEGIN
EXECUTE format($function$
CREATE OR REPLACE FUNCTION mail_template(wanted text) RETURNS %1$s LANGUAGE plpgsql STABLE AS $body$
DECLARE
    found %1$s;
    others text;
BEGIN
    SELECT t.id INTO found FROM (SELECT CAST(NULL AS text) AS name) AS without
    CROSS JOIN LATERAL (SELECT id, CAST(name AS text) AS name FROM email_templates) AS t WHERE t.name = wanted;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    SELECT string_agg(named.name, ', ') INTO others FROM (
        SELECT t.name FROM (SELECT CAST(NULL AS text) AS name) AS without
        CROSS JOIN LATERAL (SELECT CAST(name AS text) AS name FROM email_templates) AS t
        WHERE t.name IS NOT NULL ORDER BY t.name LIMIT 20) AS named;
    RAISE EXCEPTION 'there is no template %%', COALESCE(quote_literal(wanted), 'NULL')
        USING ERRCODE = 'invalid_parameter_value', HINT = COALESCE('there are ' || others, 'there is none at all');
END
$body$$function$,
    (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
     WHERE attrelid = 'email_templates'::regclass AND attname = 'id' AND NOT attisdropped));
END
$make$;

-- migrate: rollback
DROP FUNCTION mail_template(text);
