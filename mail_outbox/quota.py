"""The refusal of what is more than an organisation may queue in a day.

A trigger of the table counts and refuses, see db/quota_triggers.py: whoever inserts, and
however many do so at once, it is never more.
"""

import re
from datetime import UTC, datetime
from math import ceil

SQLSTATE = 'MQ429'
SAID = re.compile(
    r'quota: organization (?P<organization>.*) may queue (?P<limit>\d+) e-mails a day, '
    r'(?P<used>\d+) are queued and \d+ more would be; '
    r'again at (?P<resets_at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z',
    re.DOTALL,
)


class QuotaExceededError(Exception):
    """An organisation has queued what it may queue in a day, or would with these e-mails.

    PostgreSQL takes nothing more in this transaction: roll it back, or back to a savepoint.

    Attributes:
        organization_id: As text.
        emails_per_day: How many it may queue.
        queued: How many it has queued before.
        resets_at: When its next day begins; aware.
    """

    def __init__(self, told: re.Match[str]) -> None:
        super().__init__(told[0])
        self.organization_id = told['organization']
        self.emails_per_day = int(told['limit'])
        self.queued = int(told['used'])
        self.resets_at = datetime.fromisoformat(told['resets_at']).replace(tzinfo=UTC)

    def seconds_left(self) -> int:
        """Return in how many seconds its next day begins, from 1."""
        return max(1, ceil((self.resets_at - datetime.now(UTC)).total_seconds()))


def quota_refusal(error: BaseException) -> QuotaExceededError | None:
    """Return what a driver's error says of a quota; None when it says something else."""
    told = SAID.search(str(error))
    return None if told is None else QuotaExceededError(told)
