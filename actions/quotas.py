"""Set and remove what organisations may queue in a day."""

from collections.abc import Callable
from functools import partial
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from actions.safety import RequestError, agree
from db.quotas import Quota, quota_of, remove_quota, set_quota
from reporting.servers import Servers

MOST_EMAILS = 2**62


def checked_quota(quota: Quota) -> Quota:
    """Return a quota that PostgreSQL takes.

    Raises:
        RequestError: says what is wrong with it.
    """
    if not 1 <= len(quota.organization_id) <= 255 or '\0' in quota.organization_id:
        raise RequestError('an organization_id has 1 to 255 characters', 'give one')
    if quota.emails_per_day is not None and not 0 <= quota.emails_per_day <= MOST_EMAILS:
        raise RequestError('a quota is a number from 0', 'give how many e-mails a day')
    try:
        ZoneInfo(quota.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        what = f'{quota.time_zone[:80]!r} is no time zone'
        raise RequestError(what, 'give UTC, or such as Europe/Berlin') from error
    return quota


async def put_quota(
    servers: Servers,
    quota: Quota,
    *,
    created_by: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[Quota | None], None] = agree,
) -> Quota | None:
    """Set a quota. Returns the one that was there before.

    Args:
        confirm: Gets the one before.
    Raises:
        RequestError: it is none.
        ProblemError: PostgreSQL does not answer, or its table is being written to all the time.
    """
    checked_quota(quota)
    before = await servers.ask_postgres(partial(quota_of, organization_id=quota.organization_id))
    if not dry_run and before != quota:
        confirm(before)
        await servers.ask_postgres(partial(set_quota, quota=quota, created_by=created_by))
    return before


async def drop_quota(
    servers: Servers,
    organization_id: str,
    *,
    dry_run: bool = False,
    confirm: Callable[[Quota | None], None] = agree,
) -> Quota | None:
    """Remove a quota. Returns it; None when there was none.

    Raises:
        ProblemError: PostgreSQL does not answer.
    """
    before = await servers.ask_postgres(partial(quota_of, organization_id=organization_id))
    if before is not None and not dry_run:
        confirm(before)
        await servers.ask_postgres(partial(remove_quota, organization_id=organization_id))
    return before
