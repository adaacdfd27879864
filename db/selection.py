"""Which e-mails an operator means.

One set of conditions serves for what is listed, sent again and cancelled.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

import asyncpg

from db.recipient_key import IS_ONE_OF_SEVERAL, RECIPIENT_KEY
from db.states import CAME_BACK, IS_FINAL, IS_HELD, IS_TRIED, OVER_UNSENT, sql_list
from mail_outbox.states import Status

# No states of their own: failed, and no attempt will follow, or one will.
DEAD, RETRYING = 'dead', 'retrying'


When = TypeVar('When')


@dataclass(frozen=True, slots=True, kw_only=True)
class MailConditions(Generic[When]):
    """Conditions that must all be true; None is no condition.

    Attributes:
        since: Last tried at or after it, see SELECTED.
        until: Last tried before it.
        error_like: A part of the last error or reply, in any case; % stands for anything.
        domain: Of a recipient; not its subdomains.
        recipient: An address among the recipients.
        organization_id: As text, whatever the column's type.
        created_since: Aware; created at or after it.
        created_until: Aware; created before it.
        tag: It has a tag of this name, with tag_value where that is given.
        subject_like: A part of its subject, in any case; % stands for anything.
    """

    since: When | None = None
    until: When | None = None
    error_like: str | None = None
    domain: str | None = None
    email_type: str | None = None
    relay: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    organization_id: str | None = None
    created_since: datetime | None = None
    created_until: datetime | None = None
    tag: str | None = None
    tag_value: str | None = None
    subject_like: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(MailConditions[datetime]):
    """Conditions as statements have them: times are aware.

    Attributes:
        statuses: Any of these; 'dead' stands for failed e-mails without a further attempt,
            'retrying' for those with one. None: any state.
    """

    statuses: tuple[str, ...] | None

    @property
    def parameters(self) -> tuple[Any, ...]:
        """Return the parameters of SELECTED, which are the first of a statement."""
        like = None if self.error_like is None else f'%{self.error_like}%'
        subject = None if self.subject_like is None else f'%{self.subject_like}%'
        statuses = None if self.statuses is None else list(self.statuses)
        return (
            statuses, self.since, self.until, like, domain_pattern(self.domain), self.email_type,
            self.relay, recipient_pattern(self.recipient), self.message_id, self.organization_id,
            self.created_since, self.created_until, self.tag, self.tag_value, subject,
            self.recipient and self.recipient.lower(),
        )  # fmt: skip

    def with_statuses(self, statuses: tuple[str, ...]) -> 'Selection':
        """Return the same conditions for these states."""
        return replace(self, statuses=statuses)


def domain_pattern(domain: str | None) -> str | None:
    """Return a regular expression for recipients at this domain.

    It matches the form that is given, and the one that travels in envelopes.
    """
    if domain is None:
        return None
    plain = domain.lower().removeprefix('@').removesuffix('.')
    forms = {plain}
    with contextlib.suppress(UnicodeError):  # no domain: nobody's address will match
        forms.add(plain.encode('idna').decode())
    return f'@({"|".join(map(re.escape, sorted(forms)))})($|[^[:alnum:].-])'


def recipient_pattern(address: str | None) -> str | None:
    """Return a regular expression for this address among recipients."""
    if address is None:
        return None
    before, after = "[[:alnum:].!#$%&'*+/=?^_`{|}~-]", '[[:alnum:].-]'
    return f'(^|(?<!{before})){re.escape(address.lower())}(?!{after})'


# When it was last tried; for what is held, when it was due; for what expired or was cancelled, when
# that happened.
MOMENT = f"""
    CASE WHEN {IS_TRIED} THEN COALESCE(last_attempt_at, created_at)
        WHEN {IS_HELD} THEN COALESCE(next_retry_at, created_at) ELSE updated_at END
"""

_IS_ONE_OF_SEVERAL = IS_ONE_OF_SEVERAL.format(cc='cc', bcc='bcc')
_RECIPIENTS = "lower(concat_ws(',', recipient, cc, bcc))"
SELECTED = f"""
    ($1::text[] IS NULL OR status = ANY($1::text[])
     OR ('{DEAD}' = ANY($1::text[]) AND status = 'failed' AND {IS_FINAL})
     OR ('{RETRYING}' = ANY($1::text[]) AND status = 'failed' AND NOT {IS_FINAL}))
    AND ($2::timestamptz IS NULL OR {MOMENT} >= $2) AND ($3::timestamptz IS NULL OR {MOMENT} < $3)
    AND ($4::text IS NULL OR concat_ws(' ', last_error, smtp_response) ILIKE $4 ESCAPE '')
    AND ($5::text IS NULL OR {_RECIPIENTS} ~ $5)
    AND ($6::text IS NULL OR email_type::text = $6) AND ($7::text IS NULL OR relay = $7)
    AND ($8::text IS NULL OR {RECIPIENT_KEY} = $16 OR ({_IS_ONE_OF_SEVERAL} AND {_RECIPIENTS} ~ $8))
    AND ($9::text IS NULL OR message_id = $9)
    AND ($10::text IS NULL OR organization_id::text = $10)
    AND ($11::timestamptz IS NULL OR created_at >= $11)
    AND ($12::timestamptz IS NULL OR created_at < $12)
    AND ($13::text IS NULL OR COALESCE(tags ->> $13 = COALESCE($14::text, tags ->> $13), false))
    AND ($15::text IS NULL OR subject ILIKE $15 ESCAPE '')
"""
# What a statement has of its own comes after these.
OWN_1, OWN_2, OWN_3 = '$17', '$18', '$19'

NOW_SQL = 'SELECT now()'


async def read_clock(pool: asyncpg.Pool) -> datetime:
    """Return the database's time, from which `since 2h` counts."""
    now: datetime = await pool.fetchval(NOW_SQL)
    return now


_COUNTED = f"""
SELECT status,
    CASE WHEN {IS_FINAL} OR status IN ({sql_list((*OVER_UNSENT, *CAME_BACK))})
        THEN COALESCE(dead_reason, '') END
        AS final_because, count(*) AS emails
FROM mail_outbox WHERE {{which}} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
COUNT_SELECTED_SQL = _COUNTED.format(which=SELECTED)


async def count_selected(pool: asyncpg.Pool, selection: Selection) -> list[dict[str, Any]]:
    """Count what a selection covers.

    Returns:
        status, final_because (None: an attempt will follow by itself; else dead_reason or ''),
        emails.
    """
    return [dict(row) for row in await pool.fetch(COUNT_SELECTED_SQL, *selection.parameters)]


COUNT_THESE_SQL = _COUNTED.format(
    which='id = ANY($1::bigint[]) AND ($2::text IS NULL OR organization_id::text = $2)'
)


async def count_these(
    pool: asyncpg.Pool, email_ids: Sequence[int], organization_id: str | None
) -> list[dict[str, Any]]:
    """Count e-mails by their ids as count_selected does; only this organisation's, if given."""
    return [dict(row) for row in await pool.fetch(COUNT_THESE_SQL, email_ids, organization_id)]


SELECT_IDS_SQL = f"""
SELECT id FROM mail_outbox WHERE {SELECTED} ORDER BY id LIMIT {OWN_1}
"""


async def select_ids(pool: asyncpg.Pool, selection: Selection, limit: int) -> list[int]:
    """Return the ids of what a selection covers, the oldest first."""
    return [row['id'] for row in await pool.fetch(SELECT_IDS_SQL, *selection.parameters, limit)]


_LISTED = f"""
SELECT id, left(recipient, 32000) AS recipient, email_type::text AS email_type, status,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    smtp_code, enhanced_code, relay,
    left(COALESCE(last_error, smtp_response), 2000) AS error, dead_reason,
    {IS_FINAL} AS is_final, next_retry_at, last_attempt_at, created_at, {MOMENT} AS since
FROM mail_outbox WHERE {SELECTED}
"""
LIST_SELECTED_SQL = f'{_LISTED} ORDER BY created_at DESC, id DESC LIMIT {OWN_1}'


async def list_selected(
    pool: asyncpg.Pool, selection: Selection, limit: int
) -> list[dict[str, Any]]:
    """Return what a selection covers, the last created first.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    return [dict(row) for row in await pool.fetch(LIST_SELECTED_SQL, *selection.parameters, limit)]


# Only the last days, by the BRIN index of created_at: among all that was ever sent they would be
# sought for long.
LIST_SENT_IN_PART_SQL = f"""{_LISTED}
  AND created_at > now() - interval '7 days'
  AND jsonb_path_exists(recipient_outcomes, '$.*[0] ? (@ == "rejected")')
ORDER BY created_at DESC, id DESC LIMIT {OWN_1}"""


async def list_sent_in_part(
    pool: asyncpg.Pool, selection: Selection, limit: int
) -> list[dict[str, Any]]:
    """Return what was sent within a week though some recipients were refused.

    The last created comes first.

    Args:
        selection: Its conditions, but for the states.
    """
    parameters = replace(selection, statuses=(Status.SENT,)).parameters
    return [dict(row) for row in await pool.fetch(LIST_SENT_IN_PART_SQL, *parameters, limit)]
