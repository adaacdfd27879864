"""The duties that celery beat had: how often each runs, and what becomes of a missed run.

The one table: cron.py fires its rows, workers take their functions and report it, `ops call` knows
the names by it, and the judge its limits. A row's job is the function of that name in
jobs/<name>.py. All times are UTC.
"""

from dataclasses import dataclass
from typing import Literal

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Duty:
    """One row of the table."""

    name: str  # of its job; in cron_runs and for operators as well
    every_s: int  # divides a day
    # No worker was alive: run the latest slot on return, or wait for the next.
    missed: Literal['once', 'skip']
    # It claims e-mails: left to workers that may, and with QUEUE_ROUTING to the queue of e-mails.
    claims_mail: bool = False


DUTIES = (
    Duty('process_pending_emails', 5 * MINUTE_S, missed='once', claims_mail=True),
    Duty('check_service_health', MINUTE_S, missed='skip'),
    Duty('cleanup_expired_emails', HOUR_S, missed='once'),
    Duty('cleanup_old_sessions', DAY_S, missed='once'),
    Duty('count_history', MINUTE_S, missed='once'),
    Duty('fetch_reports', MINUTE_S, missed='once'),
    Duty('apply_feedback', MINUTE_S, missed='once'),
)
