"""What is asked of PostgreSQL to queue e-mails, in steps that any driver runs."""

from collections.abc import Iterator, Sequence

from mail_outbox.envelope import IdempotencyConflictError, InvalidEmailError
from mail_outbox.insertion import ATTACH, QUEUE, QUEUE_MANY
from mail_outbox.senders import UNLISTED, refuse_unlisted, wanted_json
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Ask, Steps
from mail_outbox.suppressed import suppressed_refused
from mail_outbox.template_names import with_template_ids
from mail_outbox.wake import NOTIFY_SQL

ANALYZE_ROWS = 1000  # fewer change no plan

QUEUE_SQL = QUEUE.numbered
QUEUE_MANY_SQL = QUEUE_MANY.numbered
ATTACH_SQL = ATTACH.numbered


def inserted(rows: Sequence[Row], first_place: int | None = None) -> Steps[list[int]]:
    """Insert rows of checked_row; return their ids.

    One whose idempotency key is known, or comes twice, is not inserted: its id is the first one's.

    Args:
        first_place: Where the first row stands among many; an error names the place.
    Raises:
        InvalidEmailError: nobody has allowed the sender of one, or there is no template of its
            name. Nothing was inserted.
        SuppressedRecipientsError: one that asks for it has a recipient who gets no mail. Nothing
            was inserted.
        IdempotencyConflictError: the e-mail that has the key of one says something else. Others may
            be inserted: undo it.
    """
    if not rows:
        return []
    if any(row['senders'] for row in rows):
        yield from _senders_checked(rows, first_place)
    if any(row['refuse_suppressed'] for row in rows):
        yield from suppressed_refused(rows, first_place)
    if any(row['template'] is not None for row in rows):
        rows = yield from with_template_ids(rows, first_place)
    wanted, places = _distinct(rows)
    found = yield Ask(QUEUE, wanted)
    answers = [found[place] for place in places]
    for row, (email_id, digest) in zip(rows, answers, strict=True):
        refuse_conflict(row, email_id, digest)
    if any(row['attachments'] for row in wanted):
        ids = [email_id for email_id, _ in found]
        yield Ask(ATTACH, [*attachment_rows(ids, wanted)])
    return [email_id for email_id, _ in answers]


def _distinct(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[int]]:
    """Return the rows with each key once, and for each row which of those it is."""
    if all(row['idempotency_key'] is None for row in rows):  # nearly always
        return rows, range(len(rows))
    firsts: dict[object, int] = {}  # key -> place
    places: list[int] = []
    wanted: list[Row] = []
    for row in rows:
        key = _key(row)
        place = len(wanted) if key is None else firsts.setdefault(key, len(wanted))
        places.append(place)
        if place == len(wanted):
            wanted.append(row)
    return wanted, places


def refuse_conflict(row: Row, email_id: int, digest: bytes | None) -> None:
    """Refuse a row whose key belongs to an e-mail that says something else.

    One that was inserted by an older version, or without queue_email, has no digest.

    Args:
        email_id: The e-mail that has the row's key, with its digest.
    Raises:
        IdempotencyConflictError: it says something else.
    """
    if row['content_digest'] is None or digest is None:
        return
    if row['content_digest'] != bytes(digest):
        raise IdempotencyConflictError(row['idempotency_key'], email_id)


def attachment_rows(ids: Sequence[int], rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the values of ATTACH for rows of checked_row that were inserted with these ids."""
    for email_id, row in zip(ids, rows, strict=True):
        for position, attachment in enumerate(row['attachments']):
            yield {
                'email_id': email_id,
                'position': position,
                'filename': attachment.filename,
                'content_type': attachment.content_type,
                'cid': attachment.cid,
                'data': bytes(attachment.data),
            }


def _senders_checked(rows: Sequence[Row], first_place: int | None) -> Steps[None]:
    wanted = {sender for row in rows for sender in row['senders']}
    [(unlisted,)] = yield Ask(UNLISTED, [{'senders': wanted_json(wanted)}])
    for place, row in enumerate(rows, first_place or 0):
        try:
            refuse_unlisted(row['senders'], unlisted)
        except InvalidEmailError as error:
            if first_place is None:
                raise
            raise InvalidEmailError(f'e-mail {place}: {error}') from error


def _key(row: Row) -> tuple[str, str] | None:
    """Return what is unique; two in one statement would be one conflict too many."""
    if row['idempotency_key'] is None:
        return None
    return str(row['organization_id']), row['idempotency_key']


NOTIFY = Statement(NOTIFY_SQL)


def woken() -> Steps[None]:
    """Wake the workers when the caller commits."""
    yield Ask(NOTIFY)


# Only the table's owner may, or since PostgreSQL 17 a role with the privilege MAINTAIN; the server
# warns any other.
STALE = Statement("""
SELECT c.reltuples < 2 * CAST({inserted} AS float8)
    AND CASE WHEN CAST(current_setting('server_version_num') AS int) >= 170000
    THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE pg_has_role(c.relowner, 'USAGE') END
FROM pg_class AS c WHERE c.oid = to_regclass('outbound_emails') AND c.relkind = 'r'
""")
STALE_SQL = STALE.numbered
# It never waits for a lock, but keeps one until the caller commits, which only DDL and VACUUM have
# to wait for.
ANALYZE = Statement('ANALYZE (SKIP_LOCKED) outbound_emails')


def statistics_refreshed(number: int) -> Steps[None]:
    """Analyse a table that has grown by half or more.

    Where this role must not, autovacuum does so a minute later.
    The worker's statements do without; reports and what an application asks itself are planned by
    them.
    """
    if number < ANALYZE_ROWS:
        return
    if (yield Ask(STALE, [{'inserted': number}])) == [(True,)]:
        # The caller's transaction goes on when this fails, for example at its session's time limit.
        yield Ask(ANALYZE, may_fail=True)
