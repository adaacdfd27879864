"""The outbox and its contents: mail that is late, stuck, held, or refers to what does not exist."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import asyncpg

from db import checkup, reports
from db.held import count_all_held
from ops.answer import TroubleError
from ops.checks import cleanup
from ops.checks.finding import Finding, away, error, warning
from ops.connect import Connections
from ops.output import because, counted, fault, length

T = TypeVar('T')

LATE_S = 600.0  # two sweeps
LOOK_AT_CONTENT = 2000
FAILING_SHARE, FAILING_ATTEMPTS = 0.5, 20
OF_THE_SYSTEM = ('deferred', 'uncertain', 'lost')
ARE, WERE = ('e-mail is', 'e-mails are'), ('e-mail was', 'e-mails were')
NAMES = ('waiting e-mail names', 'waiting e-mails name')
LATE_DUTIES = 3.0  # slots
EVERY_S = {
    'process_pending_emails': 300, 'check_service_health': 60, 'cleanup_expired_emails': 3600,
    'cleanup_old_sessions': 86400,
}  # fmt: skip


async def check(connections: Connections) -> list[Finding]:
    """Look at rows, attempts and duties."""
    outbox = await connections.ask_postgres(reports.read_outbox)
    poisoned = await connections.ask_postgres(checkup.count_poisoned)
    attempts = await connections.ask_postgres(reports.count_attempts)
    return [
        *judge_outbox(outbox | {'unsent_held': await connections.ask_postgres(count_all_held)}, poisoned),
        *judge_attempts(attempts),
        *judge_duties(await connections.ask_postgres(reports.read_duties)),
        *await cleanup.check(connections),
    ]


def judge_outbox(outbox: Mapping[str, Any], poisoned: int) -> Iterator[Finding]:
    """Judge the counts of db.reports.read_outbox."""
    if (outbox['oldest_due_s'] or 0) > LATE_S:
        yield error(
            f'{counted(outbox["due"], *ARE)} due, the first for {length(outbox["oldest_due_s"])}',
            '`python -m ops qshape` tells which, `python -m ops explain ID` why',
        )
    if outbox['stuck']:
        yield error(
            f'{counted(outbox["stuck"], *ARE)} held by workers that are gone, and nobody takes them over',
            'start a worker; see the `beat` lines in the logs',
        )
    # held counts both that an operator must decide about: those of the status `held`, and uncertain ones.
    unsent = outbox.get('unsent_held', 0)
    if unsent:
        yield warning(
            f'{counted(unsent, *ARE)} held: nobody sends them before you decide',
            '`python -m ops held ls`, then `held release` or `held cancel`',
        )
    if outbox['held'] > unsent:
        yield warning(
            f'{counted(outbox["held"] - unsent)} may have been delivered or not',
            '`python -m ops failed`, then `resolve` or `retry`: they wait for you',
        )
    if outbox['past_expiry']:
        yield warning(
            f'{counted(outbox["past_expiry"], *WERE)} not sent before expires_at',
            'see why mail was late: `ops failed`',
        )
    if poisoned:
        yield warning(
            f'{counted(poisoned, *WERE)} set aside within a day: workers died sending them',
            "`python -m ops failed --dead`; read those workers' logs",
        )


def judge_attempts(counts: list[dict[str, Any]]) -> Iterator[Finding]:
    """Judge the outcomes of the last hour. Refused mail is the mail's fault; what may work later is the system's."""
    hour: Counter[str] = Counter()
    for row in counts:
        hour[row['outcome']] += row['hour']
    total = hour.total() - hour['released']
    failed = {name: hour[name] for name in (*OF_THE_SYSTEM, 'rejected') if hour[name]}
    if total < FAILING_ATTEMPTS or total - sum(failed.values()) >= FAILING_SHARE * total:
        return
    severity = error if sum(hour[name] for name in OF_THE_SYSTEM) > FAILING_SHARE * total else warning
    told = ', '.join(f'{number} {name}' for name, number in failed.items())
    yield severity(
        f'{sum(failed.values())} of {total} attempts failed within the hour: {told}',
        '`python -m ops failed --since 1h` says why',
    )


def judge_duties(duties: list[dict[str, Any]]) -> Iterator[Finding]:
    """Judge the last run of each duty."""
    for duty in duties:
        name = duty['duty']
        if duty['outcome'] == 'error':
            yield error(f'{name} failed{because(fault(duty["detail"]))}', "see the worker's log")
        elif duty['outcome'] != 'skipped' and duty['started_s'] > LATE_DUTIES * EVERY_S.get(name, 86400):
            yield error(f'{name} last ran {length(duty["started_s"])} ago', 'see why no worker runs it')


async def check_content(connections: Connections) -> list[Finding]:
    """Look for waiting mail whose template or attachments do not exist: its next attempt ends for good."""
    stored, indexed = await asyncio.gather(
        _tried(connections.ask_postgres(_read_named)), _tried(connections.ask_mongo(checkup.content_is_indexed))
    )
    found = [answer for answer in (stored, indexed) if isinstance(answer, Finding)]
    if indexed is False:
        remedy = 'db.email_attachments.createIndex({content_id: 1})'
        found.append(warning('attachments are found by reading all of them: the index is missing', remedy))
    if isinstance(stored, Finding):
        return found
    lost, named = stored
    if lost['emails']:
        found.append(
            error(
                f'{counted(lost["emails"], *NAMES)} a template that does not exist, the first is {lost["first"]}',
                'put the template back into email_templates before they are tried',
            )
        )
    if isinstance(indexed, Finding):
        return found
    there = await _tried(connections.ask_mongo(partial(checkup.stored_content, content_ids=list(named))))
    if isinstance(there, Finding):
        return [*found, there]
    gone = [email_id for content_id, email_id in named.items() if content_id not in there]
    if gone:
        found.append(
            error(
                f'{counted(len(gone), *NAMES)} attachments that MongoDB does not have, the first is {min(gone)}',
                'restore the collection email_attachments; check MONGODB_URL and MONGODB_DATABASE',
            )
        )
    return found


async def _read_named(pool: asyncpg.Pool) -> tuple[dict[str, Any], dict[str, int]]:
    return await checkup.read_lost_templates(pool), await checkup.read_waiting_content(pool, limit=LOOK_AT_CONTENT)


async def _tried(asking: Awaitable[T]) -> T | Finding:
    """Return the answer, or that the server is away: the other one is asked all the same."""
    try:
        return await asking
    except TroubleError as failure:
        return away(failure.trouble)
