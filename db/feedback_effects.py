"""What a report changes: its e-mail's state, and the list of those who get no mail.

Any way may bring a report, twice, and before the attempt is recorded that it is about. So reports
are stored first and looked at then, each in a transaction of its own, until their e-mail is in a
state that can change; what is concluded is never looked at again. A row that is locked, or refuses
the change, holds up its own reports only.
"""

from typing import Any, NamedTuple

import asyncpg
import structlog

from db.errors import DATABASE_DOWN, ErrorKind, kind_of
from db.feedback import StoredReport, conclude, look_later, open_reports, take_report
from db.feedback_email import FoundEmail, find_email, is_of_another_message, recipient_of
from db.feedback_suppression import FeedbackRules, reason_of, suppress
from db.narrowing import STATEMENT_IS_WRONG, UNREADABLE
from db.states import ACCEPTED, OVER_UNSENT, sql_list
from mail.bounce.report import FeedbackKind
from mail_outbox.states import Status

log = structlog.get_logger()

MINUTE_S, DAY_S = 60.0, 86400.0
UNKNOWN_AFTER_S = 15 * MINUTE_S  # a report may be faster than the record of its attempt
UNDER_WAY_FOR_S = 30 * DAY_S
LOOKED_AT_ONCE = 500
LONGEST_EFFECT_CHARS = 500


class Applied(NamedTuple):
    """What came of a report."""

    report_id: int
    kind: FeedbackKind
    email_id: int | None
    effect: str
    suppressed: str | None = None  # the key on the list


async def apply_reports(
    pool: asyncpg.Pool, rules: FeedbackRules, limit: int = LOOKED_AT_ONCE
) -> list[Applied]:
    """Look at stored reports, the longest due first.

    Returns:
        Those that were concluded.
    Raises:
        asyncpg.PostgresError, OSError: connection failure; what was concluded is so.
    """
    found = []
    for report_id in await open_reports(pool, limit):
        try:
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute(WAIT_FOR_ROWS_SQL)
                applied = await _apply(conn, report_id, rules)
        except (*DATABASE_DOWN, asyncpg.PostgresError, *UNREADABLE) as error:
            if isinstance(error, STATEMENT_IS_WRONG) or kind_of(error) is ErrorKind.UNREACHABLE:
                raise
            await _put_off(pool, report_id, error)
        else:
            if applied is not None:
                found.append(applied)
    return found


# The application may hold a row for as long as it likes.
WAIT_FOR_ROWS_SQL = "SET LOCAL lock_timeout = '1s'"

PUT_OFF_SQL = f"""
UPDATE email_feedback SET
    look_at = now() + GREATEST(interval '1 minute', LEAST(now() - received_at, interval '1 day')),
    applied_at = CASE WHEN is_over THEN now() END, effect = CASE WHEN is_over THEN $2 END
FROM (SELECT received_at < now() - interval '{UNDER_WAY_FOR_S} seconds' AS is_over
      FROM email_feedback WHERE id = $1) AS known
WHERE id = $1
"""


async def _put_off(pool: asyncpg.Pool, report_id: int, error: Exception) -> None:
    """Have a report looked at later, at last once a day, and give it up after a month."""
    why = str(error) or type(error).__name__
    log.warning('feedback.put_off', report_id=report_id, error=why)
    effect = f'it could not be applied: {why}'[:LONGEST_EFFECT_CHARS]
    await pool.execute(PUT_OFF_SQL, report_id, effect)


async def _apply(conn: Any, report_id: int, rules: FeedbackRules) -> Applied | None:
    report = await take_report(conn, report_id)
    if report is None:
        return None
    email = await find_email(conn, report)
    if email is None:
        return await _without_email(conn, report, rules)
    recipient = recipient_of(report, email)
    if report.recipient is not None and recipient is None:
        return await _end(conn, report, email.id, 'the address is none of its recipients')
    if is_of_another_message(report, email):
        return await _end(conn, report, email.id, 'neither Message-ID nor address are its own')
    if report.kind is not FeedbackKind.DELAY:
        if email.is_under_way:
            if report.age_s < UNDER_WAY_FOR_S:
                await look_later(conn, report.id, max(MINUTE_S, report.age_s / 4))
                return None
            return await _end(conn, report, email.id, 'its e-mail is still under way', recipient)
        if email.status == Status.EXTERNAL:
            return await _end(conn, report, email.id, 'another system sent it', recipient)
    suppressed = await suppress(conn, report, recipient, rules)
    effect = await _change(conn, report, email, recipient)
    return await _end(conn, report, email.id, effect, recipient, suppressed)


async def _without_email(conn: Any, report: StoredReport, rules: FeedbackRules) -> Applied | None:
    if report.age_s < UNKNOWN_AFTER_S and (report.email_id or report.sent_at):
        await look_later(conn, report.id, max(MINUTE_S, report.age_s))
        return None
    # Anybody could say anything of any address; a provider has proved who it is.
    suppressed = (
        await suppress(conn, report, report.recipient, rules) if report.is_trusted else None
    )
    return await _end(conn, report, None, 'its e-mail is not known', report.recipient, suppressed)


async def _end(
    conn: Any,
    report: StoredReport,
    email_id: int | None,
    effect: str,
    recipient: str | None = None,
    suppressed: str | None = None,
) -> Applied:
    await conclude(conn, report.id, effect, email_id, recipient or report.recipient)
    return Applied(report.id, report.kind, email_id, effect, suppressed)


# A claim that is being made has the row in `sending`, and is left alone. What a recipient's outcome
# was is overwritten only where it is known: of an e-mail to one there is none.
CHANGE_SQL = f"""
UPDATE mail_outbox AS e
SET status = CASE WHEN e.status = 'complained' OR (e.status = 'bounced' AND $2 = 'bounced')
        THEN e.status ELSE $2 END,
    feedback_at = CASE WHEN e.status = 'complained' OR (e.status = 'bounced' AND $2 = 'bounced')
        THEN e.feedback_at ELSE $3 END,
    feedback = CASE WHEN e.status = 'complained' OR (e.status = 'bounced' AND $2 = 'bounced')
        THEN e.feedback ELSE $4 END,
    recipient_outcomes = CASE
        WHEN $2 = 'bounced' AND jsonb_typeof(e.recipient_outcomes) = 'object'
            AND e.recipient_outcomes ? $5
        THEN jsonb_set(e.recipient_outcomes, ARRAY[$5],
                       jsonb_build_array('rejected', 'bounced: ' || $4::text))
        ELSE e.recipient_outcomes END,
    next_retry_at = NULL, dead_reason = NULL,
    sent_at = COALESCE(e.sent_at, e.last_attempt_at, now()), updated_at = now()
WHERE e.id = $1::bigint
  AND (COALESCE(e.status, '') IN ({sql_list((*ACCEPTED, Status.UNCERTAIN, *OVER_UNSENT))})
       OR (e.status = 'failed' AND e.next_retry_at IS NULL))
RETURNING e.status
"""
BECOMES = {
    FeedbackKind.BOUNCE: Status.BOUNCED,
    FeedbackKind.SOFT_BOUNCE: Status.BOUNCED,
    FeedbackKind.COMPLAINT: Status.COMPLAINED,
}


async def _change(conn: Any, report: StoredReport, email: FoundEmail, recipient: str | None) -> str:
    becomes = BECOMES.get(report.kind)
    if becomes is None:
        return 'recorded'
    try:
        async with conn.transaction():
            state = await conn.fetchval(
                CHANGE_SQL, email.id, becomes.value, report.reported_at, reason_of(report),
                recipient or '',
            )  # fmt: skip
    except asyncpg.PostgresError as error:  # by a CHECK, a trigger
        if isinstance(error, (*DATABASE_DOWN, *STATEMENT_IS_WRONG)):
            raise
        return f'its row refuses to be {becomes.value}: {error}'[:LONGEST_EFFECT_CHARS]
    return f'it is {state}' if state else 'somebody changed it meanwhile'
