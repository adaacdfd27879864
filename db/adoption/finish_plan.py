"""What finishing an adopted table changes, and what stands in its way. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from db.adoption.columns import APPLICATION, Column, read_columns, view_columns
from db.adoption.dependents import read_dependents
from db.adoption.phases import AdoptionPhase, read_adoption
from db.adoption.quoting import quoted
from db.adoption.showing import REMOVE_SHOWING_DDL
from db.adoption.status_triggers import SYNC
from db.adoption.takeover import WrongPhaseError
from db.adoption.trigger import NAIVE, view_ddl
from db.states import ALL_DEAD_REASONS, ALL_WORDS
from db.webhook_capture import capture_ddl
from mail_outbox.envelope import BY_LIFE

# Ours stands beside these while the table is adopted, and takes their place.
REPLACED = ('status', 'smtp_response', 'smtp_code')
NOT_NULL = ('status', 'attempts', 'max_attempts', 'created_at', 'updated_at')
DEFAULTS = {'status': "'pending'", 'attempts': '0', 'created_at': 'now()', 'updated_at': 'now()'}
# As in db/migrations; a test holds a finished table against a new one.
CHECKS: Mapping[str, str] = {
    'outbound_emails_status_known': f'status IN ({ALL_WORDS})',
    'outbound_emails_dead_reason_known': f'{{dead_reason}} IN ({ALL_DEAD_REASONS})',
    'outbound_emails_attempts_in_range': 'attempts BETWEEN 0 AND max_attempts',
    'outbound_emails_priority_known': '{priority} BETWEEN 0 AND 2',
    'outbound_emails_sending_is_claimed': "status <> 'sending' OR ({claim_token} IS NOT NULL "
    'AND {claimed_by} IS NOT NULL AND {lease_expires_at} IS NOT NULL)',
    'outbound_emails_sent_has_time': "status <> 'sent' OR sent_at IS NOT NULL",
}
STORAGE = (
    'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000, '
    'autovacuum_analyze_scale_factor = 0.02'
)
# Measured with bench/adoption.py on PostgreSQL 18, 2026-11. A zone other than UTC writes the table
# anew.
LOCK_S = 0.2
REWRITE_BYTES_PER_S = 60e6


@dataclass(frozen=True, slots=True)
class FinishStep:
    """One thing that finishing changes."""

    what: str
    under_lock: bool
    ddl: str = ''


@dataclass(frozen=True, slots=True)
class FinishPlan:
    """Everything that finishing changes, and how long the table is locked."""

    changes: Sequence[FinishStep]
    lock_s: float
    is_renaming: bool  # False: an interrupted call has done so already
    added_columns: Sequence[str]  # that keep their names
    rebuilt: Mapping[str, str]  # indexes on converted columns, with their DDL
    max_attempts: int


BYTES_SQL = "SELECT pg_table_size('outbound_emails')::float8"
# Those that a converted column is in, but for those that a constraint stands on.
REBUILT_SQL = """
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS ddl
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = 'outbound_emails'::regclass
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
  AND EXISTS (SELECT FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid
      AND a.attnum = d.refobjsubid
              WHERE d.objid = i.indexrelid AND d.refobjid = i.indrelid
                AND a.attname = ANY($1::text[]))
  AND NOT EXISTS (SELECT FROM pg_depend AS d JOIN pg_attribute AS a
                      ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  WHERE d.objid = i.indexrelid AND d.refobjid = i.indrelid
                    AND a.attname = ANY($2::text[]))
ORDER BY 1
"""


async def plan_finish(
    conn: asyncpg.Connection, *, zone: str, max_attempts: int | None
) -> FinishPlan:
    """List what finishing changes. Reads only.

    Raises:
        WrongPhaseError: the table is not taken over, or something of the application's is in the
            way; says what to do.
    """
    max_attempts = max_attempts or BY_LIFE
    adoption = await read_adoption(conn)
    if adoption is None:
        raise WrongPhaseError(
            'outbound_emails was made by this program: there is nothing to finish'
        )
    if adoption.phase in (AdoptionPhase.EXPANDING, AdoptionPhase.SHARED):
        raise WrongPhaseError(
            'the table is not taken over yet: `python -m ops import-celery` does it'
        )
    columns = await read_columns(conn)
    replaced = [name for name in REPLACED if f'mail_{name}' in adoption.added_columns]
    naive = [column.name for column in columns.values() if column.type == NAIVE]
    going: list[str] = []
    triggers: dict[str, str] = {}
    if replaced:
        going, triggers = await read_dependents(conn, replaced, [*naive, *_narrow(columns)])
    lock_s = LOCK_S
    if naive and zone != 'UTC':
        lock_s += await conn.fetchval(BYTES_SQL) / REWRITE_BYTES_PER_S
    rebuilt = {row['name']: row['ddl'] for row in await conn.fetch(REBUILT_SQL, naive, replaced)}
    stay = [name for name in adoption.added_columns if name.removeprefix('mail_') not in replaced]
    changes = _checked_later()
    if replaced:
        changes = [
            *_replaced(columns, replaced, going, triggers),
            *_types(columns, naive, zone),
            *_filled(max_attempts, view_columns(stay)),
            *[
                FinishStep(f'the trigger {name} is made anew', True, ddl)
                for name, ddl in triggers.items()
            ],
            *changes,
        ]
    return FinishPlan(changes, lock_s, bool(replaced), stay, rebuilt, max_attempts)


def _replaced(
    columns: Mapping[str, Column],
    replaced: Sequence[str],
    going: Sequence[str],
    triggers: Mapping[str, str],
) -> list[FinishStep]:
    changes = [
        FinishStep(
            'rows that the other system ended get our word for their state; NULL in attempts, '
            'created_at ... is filled',
            False,
        ),
        FinishStep(
            'our triggers and the view mail_outbox go',
            True,
            f'DROP TRIGGER {SYNC} ON outbound_emails; {REMOVE_SHOWING_DDL} '
            'DROP VIEW mail_outbox; DROP FUNCTION outbox_sync()',
        ),
    ]
    changes += [FinishStep(f'goes with its column: {what}', True) for what in going]
    changes += [
        FinishStep(
            f'the trigger {name} goes for a moment',
            True,
            f'DROP TRIGGER {quoted(name)} ON outbound_emails',
        )
        for name in triggers
    ]
    for name in replaced:
        ddl = f'ALTER TABLE outbound_emails RENAME COLUMN mail_{name} TO {name}'
        if name in columns:
            old = columns[name]
            kind = f'{old.type}, {old.limit} characters' if old.limit else old.type
            what = f'{name} ({kind}) is replaced by ours'
            changes.append(
                FinishStep(what, True, f'ALTER TABLE outbound_emails DROP COLUMN {name};{ddl}')
            )
    return changes


def _filled(max_attempts: int, names: Mapping[str, str]) -> list[FinishStep]:
    changes = []
    defaults = {**DEFAULTS, 'max_attempts': str(max_attempts)}
    changes.append(
        FinishStep(
            'columns get our defaults',
            True,
            'ALTER TABLE outbound_emails '
            + ', '.join(
                f'ALTER COLUMN {name} SET DEFAULT {value}' for name, value in defaults.items()
            ),
        )
    )
    changes.append(
        FinishStep(
            'room on each page and early vacuum, docs/schema.md',
            True,
            f'ALTER TABLE outbound_emails SET ({STORAGE})',
        )
    )
    checks = {name: check.format(**names) for name, check in CHECKS.items()} | {
        f'outbound_emails_{name}_given': f'{name} IS NOT NULL' for name in NOT_NULL
    }
    added = ', '.join(
        f'ADD CONSTRAINT {name} CHECK ({check}) NOT VALID' for name, check in checks.items()
    )
    changes.append(
        FinishStep(
            'CHECKs forbid illegal rows from then on', True, f'ALTER TABLE outbound_emails {added}'
        )
    )
    anew = f'{view_ddl(names)};{capture_ddl(names)}'
    changes.append(FinishStep('the view mail_outbox is made anew', True, anew))
    return changes


def _types(columns: Mapping[str, Column], naive: Sequence[str], zone: str) -> list[FinishStep]:
    changes = []
    if naive:
        # In one statement and without USING: in UTC no row is rewritten.
        ddl = ', '.join(f'ALTER COLUMN {quoted(name)} TYPE timestamptz' for name in naive)
        drop = ', '.join(f'ALTER COLUMN {quoted(name)} DROP DEFAULT' for name in naive)
        how = (
            'no row is rewritten'
            if zone == 'UTC'
            else f'they mean {zone}, so the table is written anew'
        )
        changes.append(
            FinishStep(
                f'{", ".join(naive)} get a time zone: {how}',
                True,
                f'ALTER TABLE outbound_emails {drop}; ALTER TABLE outbound_emails {ddl}',
            )
        )
    narrow = _narrow(columns)
    if narrow:
        ddl = ', '.join(f'ALTER COLUMN {name} TYPE text' for name in narrow)
        changes.append(
            FinishStep(
                f'{", ".join(narrow)} become text', True, f'ALTER TABLE outbound_emails {ddl}'
            )
        )
    return changes


def _narrow(columns: Mapping[str, Column]) -> list[str]:
    return [
        wanted.name
        for wanted in APPLICATION
        if (column := columns.get(wanted.name)) is not None
        and wanted.name not in REPLACED
        and (wanted.ddl == 'text' or wanted.name == 'recipient')
        and column.is_text
        and column.type != 'text'
    ]


def _checked_later() -> list[FinishStep]:
    return [
        FinishStep(
            'indexes on times are built anew while others write; until then claims are slower',
            False,
        ),
        FinishStep(
            'all rows are checked while others write; then attempts, created_at ... refuse NULL',
            False,
        ),
    ]
