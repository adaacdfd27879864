"""What mailbox providers hold against a sender: dead addresses and complaints.

Sources: Gmail's and Yahoo's guidelines for senders (complaints below 0.1 %, never 0.3 % or more),
Amazon SES (under review from 5 % of hard bounces, paused from 10 %).
"""

from collections.abc import Iterable, Iterator
from functools import partial

from db.reputation import DAYS, count_returned
from db.times import Row
from reporting.checks.finding import Finding, error, warning
from reporting.servers import Servers

FEWEST_EMAILS = 200  # of fewer a share says nothing
FEWEST_RETURNED = 3
BOUNCES_WARN, BOUNCES_ERROR = 0.05, 0.10
COMPLAINTS_WARN, COMPLAINTS_ERROR = 0.001, 0.003
SEE_BOUNCES = (
    'see where these addresses come from: `python -m ops find --status bounced --since 7d`; '
    'confirm new ones by an e-mail before anything else is sent there'
)
SEE_COMPLAINTS = (
    'see which: `python -m ops find --status complained --since 7d`; send less of that type, and '
    'let people unsubscribe (UNSUBSCRIBE_TYPES)'
)
# The share of what, the words, from where on, and what to do.
SHARES = (
    ('bounced', 'bounced as dead addresses', (BOUNCES_WARN, BOUNCES_ERROR), SEE_BOUNCES),
    (
        'complained',
        'were reported as unwanted',
        (COMPLAINTS_WARN, COMPLAINTS_ERROR),
        SEE_COMPLAINTS,
    ),
)


async def check(servers: Servers, default_domain: str) -> list[Finding]:
    """Look at what came back of what was sent, by relay and by sender domain."""
    counting = partial(count_returned, default_domain=default_domain)
    return list(judge_returned(await servers.ask_postgres(counting)))


def judge_returned(counts: Iterable[Row]) -> Iterator[Finding]:
    """Judge rows of db.reputation.count_returned."""
    for row in counts:
        if row['emails'] < FEWEST_EMAILS:
            continue
        where = f'by {row["relay"]}' if row['relay'] else f'from {row["sender_domain"]}'
        for name, words, (warn_from, error_from), remedy in SHARES:
            share = row[name] / row['emails']
            if row[name] >= FEWEST_RETURNED and share >= warn_from:
                what = (
                    f'{row[name]} of {row["emails"]} e-mails sent {where} in {DAYS} days {words}: '
                    f'{share:.1%}, and providers act from {error_from:.1%}'
                )
                yield (error if share >= error_from else warning)(what, remedy)
