"""The outbox and its contents: mail that is late, stuck, held, or refers to what does not exist."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import asyncpg

from db import checkup, reports
from db.attachments import read_lost_attachments
from db.switches import read_switches
from reporting.checks.finding import Finding, error, from_judge, unreachable, warning
from reporting.judge import (
    in_order,
    judge_attempts,
    judge_duties,
    judge_outbox,
    judge_services,
    judge_switches,
)
from reporting.overview import as_rows
from reporting.problems import ProblemError
from reporting.servers import Servers
from reporting.wording import counted

T = TypeVar('T')

LOOK_AT_CONTENT = 2000
NAMES = ('waiting e-mail names', 'waiting e-mails name')

LOST = (  # what a waiting e-mail names, and the remedy
    (
        'a template that does not exist',
        'put the template back into email_templates before they are tried',
    ),
    (
        'attachments that email_attachments does not have',
        'restore that table before they are tried',
    ),
)


async def check(servers: Servers) -> list[Finding]:
    """Have the judge look at rows, attempts, switches and duties."""
    outbox = await servers.ask_postgres(reports.read_outbox)
    paused_due = await servers.ask_postgres(reports.read_paused_due)
    poisoned = await servers.ask_postgres(checkup.count_poisoned)
    attempts = await servers.ask_postgres(reports.count_attempts)
    switches = as_rows(await servers.ask_postgres(read_switches))
    duties = await servers.ask_postgres(reports.read_duties)
    services = await servers.ask_postgres(reports.read_services)
    found = [
        *judge_outbox(outbox, paused_due, poisoned, is_worked=True),
        *judge_attempts(last_hour(attempts)),
        *judge_switches(switches, paused_due),
        *judge_duties(duties, switches, is_worked=True),
        *judge_services(services, is_worked=True),
    ]
    return [*map(from_judge, in_order(found))]


def last_hour(counts: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Add up what db.reports.count_attempts tells of the last hour, by outcome."""
    hour: Counter[str] = Counter()
    for row in counts:
        hour[row['outcome']] += row['hour']
    return hour


async def check_content(servers: Servers) -> list[Finding]:
    """Look for waiting mail whose template or attachments do not exist.

    Its next attempt would end for good.
    """
    stored, indexed = await asyncio.gather(
        _tried(servers.ask_postgres(_read_named)), _tried(_is_indexed(servers))
    )
    found = [answer for answer in (stored, indexed) if isinstance(answer, Finding)]
    if indexed is False:
        remedy = 'db.email_attachments.createIndex({content_id: 1})'
        found.append(
            warning('attachments are found by reading all of them: the index is missing', remedy)
        )
    if isinstance(stored, Finding):
        return found
    *lost, named = stored
    for (what, remedy), row in zip(LOST, lost, strict=True):
        if row['emails']:
            emails = counted(row['emails'], *NAMES)
            found.append(error(f'{emails} {what}, the first is {row["first"]}', remedy))
    if isinstance(indexed, Finding):
        return found
    if not servers.has_mongo:
        if named:
            emails, first = counted(len(named), *NAMES), min(named.values())
            what = f'{emails} attachments in MongoDB, and there is none, the first is {first}'
            found.append(error(what, 'set MONGODB_URL'))
        return found
    there = await _tried(
        servers.ask_mongo(partial(checkup.stored_content, content_ids=list(named)))
    )
    if isinstance(there, Finding):
        return [*found, there]
    gone = [email_id for content_id, email_id in named.items() if content_id not in there]
    if gone:
        found.append(
            error(
                f'{counted(len(gone), *NAMES)} attachments that MongoDB does not have, '
                f'the first is {min(gone)}',
                'restore the collection email_attachments; check MONGODB_URL and MONGODB_DATABASE',
            )
        )
    return found


async def _is_indexed(servers: Servers) -> bool:
    return await servers.ask_mongo(checkup.content_is_indexed) if servers.has_mongo else True


async def _read_named(
    pool: asyncpg.Pool,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    return (
        await checkup.read_lost_templates(pool),
        await read_lost_attachments(pool),
        await checkup.read_waiting_content(pool, limit=LOOK_AT_CONTENT),
    )


async def _tried(asking: Awaitable[T]) -> T | Finding:
    """Return the answer, or that the server is unreachable: the other one is asked all the same."""
    try:
        return await asking
    except ProblemError as failure:
        return unreachable(failure.problem)
