"""E-mails that somebody looks for, the newest first, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from db.email_list import LAST_ID, list_emails, list_these
from db.errors import ErrorKind, kind_of
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import Document, Problem, ProblemError
from reporting.servers import Servers

TOO_SLOW = Problem(
    'so few e-mails fit that too many had to be looked at',
    'narrow it down: a time, or a state that few are in',
)


@dataclass(frozen=True, slots=True)
class FoundMail:
    """A page of what fits.

    Attributes:
        emails: Rows of db.email_list, the newest id first.
        next_before: Where the next page begins; None: this is the last.
        is_whole: Where it is False, those before next_before were not looked at yet: too many were.
    """

    emails: list[Document]
    next_before: int | None = None
    is_whole: bool = True


async def find_emails(
    servers: Servers,
    conditions: MailFilter,
    statuses: Sequence[str] | None,
    *,
    before_id: int = LAST_ID,
    limit: int,
) -> FoundMail:
    """Return the newest e-mails that fit.

    Args:
        statuses: Of reporting.mail_filter.STATE_WORDS; None: any.
        before_id: next_before of the page before.
    Raises:
        ProblemError: PostgreSQL does not answer; TOO_SLOW when not in time.
    """
    selection = await make_selection(servers, conditions, tuple(statuses) if statuses else None)
    listing = partial(list_emails, selection=selection, before_id=before_id, limit=limit)
    try:
        found = await servers.ask_postgres(listing)
    except ProblemError as error:
        cause = error.__cause__
        if isinstance(cause, Exception) and kind_of(cause) is ErrorKind.LIMIT:
            raise ProblemError(TOO_SLOW) from cause
        raise
    return FoundMail(found.rows, found.goes_on_before, found.is_whole)


async def find_this(servers: Servers, email_id: int) -> FoundMail:
    """Return the e-mail with an id, as find_emails does.

    Raises:
        ProblemError: PostgreSQL does not answer.
    """
    listing = partial(list_these, email_ids=[email_id], organization_id=None)
    return FoundMail(await servers.ask_postgres(listing))
