"""What of the application's stands on columns that finishing replaces or converts. Reads only."""

from collections.abc import Sequence

import asyncpg

from db.adoption.status_triggers import OURS
from db.adoption.takeover import WrongPhaseError

# What stands on a column that goes or changes, but for what this program made: it breaks, vanishes,
# or is in the way.
DEPENDENTS_SQL = """
SELECT d.classid::regclass::text AS catalog, d.objid,
    pg_describe_object(d.classid, d.objid, d.objsubid) AS what,
    CASE d.classid WHEN 'pg_class'::regclass THEN pg_get_indexdef(d.objid)
        WHEN 'pg_constraint'::regclass THEN pg_get_constraintdef(d.objid)
        WHEN 'pg_trigger'::regclass THEN pg_get_triggerdef(d.objid) END AS ddl,
    EXISTS (SELECT FROM pg_index AS i WHERE i.indexrelid = d.objid AND i.indisunique) AS is_unique,
    (SELECT tgname FROM pg_trigger WHERE oid = d.objid) AS trigger, a.attname AS column
FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = 'outbound_emails'::regclass
  AND a.attname = ANY($1::text[])
  AND NOT (d.classid = 'pg_constraint'::regclass
           AND d.objid IN (SELECT oid FROM pg_constraint WHERE contype = 'n'))
  AND NOT (d.classid = 'pg_trigger'::regclass
           AND d.objid IN (SELECT oid FROM pg_trigger WHERE tgname = ANY($2::text[])))
  AND NOT (d.classid = 'pg_rewrite'::regclass
           AND d.objid IN (SELECT oid FROM pg_rewrite WHERE ev_class = to_regclass('mail_outbox')))
  AND NOT (d.classid = 'pg_attrdef'::regclass AND d.objid IN (
      SELECT f.oid FROM pg_attrdef AS f JOIN pg_attribute AS c ON c.attrelid = f.adrelid
        AND c.attnum = f.adnum
      WHERE c.attname = ANY($1::text[])))
UNION
SELECT 'pg_rewrite', r.oid, pg_describe_object('pg_rewrite'::regclass, r.oid, 0), NULL, false, NULL,
    NULL
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'outbound_emails'::regclass
  AND r.ev_class <> COALESCE(to_regclass('mail_outbox')::oid, 0)
ORDER BY what
"""


async def read_dependents(
    conn: asyncpg.Connection, replaced: Sequence[str], converted: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Return what goes with the columns that are replaced, and the triggers that are made anew.

    Raises:
        WrongPhaseError: something would break; names all of it.
    """
    going: list[str] = []
    breaking: list[str] = []
    triggers: dict[str, str] = {}
    for row in await conn.fetch(DEPENDENTS_SQL, [*replaced, *converted], list(OURS)):
        catalog, ddl = row['catalog'], row['ddl']
        if catalog in ('pg_constraint', 'pg_class') and row['column'] not in replaced:
            continue  # these are converted with their columns
        if catalog == 'pg_trigger' and ' WHEN (' not in ddl:
            triggers[row['trigger']] = ddl
        elif catalog == 'pg_constraint' or (catalog == 'pg_class' and not row['is_unique']):
            going.append(f'{row["what"]}: {ddl}')
        else:
            breaking.append(f'{row["what"]}: {ddl}' if ddl else row['what'])
    if breaking:
        what = '\n'.join(f'  - {each}' for each in breaking)
        raise WrongPhaseError(
            'these stand on columns that finishing changes; drop them, and make them anew after '
            f'it:\n{what}'
        )
    return going, triggers
