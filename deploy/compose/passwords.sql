-- The roles' passwords, as make-secrets made them. Run again after a change of one: docker compose run --rm roles
\set worker `cat /run/secrets/db_worker`
\set api `cat /run/secrets/db_api`
\set ingress `cat /run/secrets/db_ingress`
\set web `cat /run/secrets/db_web`
\set producer `cat /run/secrets/db_producer`
ALTER ROLE email_worker PASSWORD :'worker';
ALTER ROLE email_api PASSWORD :'api';
ALTER ROLE email_ingress PASSWORD :'ingress';
ALTER ROLE email_web PASSWORD :'web';
ALTER ROLE email_producer PASSWORD :'producer';
