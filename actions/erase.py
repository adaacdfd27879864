"""Erase what is held on one person's address."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from actions.audit import audited
from actions.safety import RequestError, agree
from db.audit import Actor
from db.origins import was_adopted
from db.personal import (
    Elsewhere,
    PersonalRows,
    count_elsewhere,
    erase_elsewhere,
    erase_rows,
    find_person,
    free_rows,
    person_of,
)
from mail_outbox.envelope import ContentUnavailableError
from mail_outbox.suppression import erased_key
from reporting.problems import INTERRUPTED, Document, Problem
from reporting.servers import Servers
from reporting.wording import counted

WAIT_S = 40.0  # for what is being sent: a lease and its rescue
LOOK_EVERY_S = 1.0
LOGS = (
    'logs have no local parts of addresses above DEBUG; backups, and the mail that relays and '
    'mailboxes have, keep theirs'
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased, or would be.

    Attributes:
        emails: To this person alone: deleted with attempts, attachments and reports.
        freed: To others, too, or with the address in them: the address is taken out.
        under_way: Being sent now: left as they are.
        kept: The server would not delete them.
        elsewhere: Entries outside the outbox.
        is_suppressed: The person gets no mail, and that stays so.
    """

    dry_run: bool
    emails: int
    freed: int
    under_way: int
    kept: int
    elsewhere: Elsewhere
    is_suppressed: bool
    problems: tuple[Problem, ...] = ()


def erasure_document(done: Erasure) -> Document:
    """Return what was erased, and where nobody reached, in plain values."""
    document = asdict(done)
    del document['problems']
    return document | {'elsewhere': done.elsewhere._asdict(), 'logs': LOGS}


def erasure_lines(document: Document) -> list[str]:
    """Return an erasure's document in sentences."""
    would = 'would be ' if document['dry_run'] else ''
    others = document['elsewhere']
    emails = (
        f'{counted(document["emails"])} to this address alone {would}erased; the address {would}'
        f'taken out of {counted(document["freed"])} with others.'
    )
    elsewhere = (
        f'Elsewhere: {others["audit"]} entries of the audit, {others["feedback"]} reports, '
        f'{others["deliveries"]} webhook deliveries, {others["requests"]} idempotency keys.'
    )
    lines = [emails, elsewhere]
    if document['under_way'] and document['dry_run']:
        lines.append(f'{counted(document["under_way"])} being sent now.')
    if document['is_suppressed']:
        lines.append('It stays on the list of those who get no mail, as a hash.')
    return [*lines, f'Not reached: {document["logs"]}.']


async def erase_person(
    servers: Servers,
    key: str,
    actor: Actor,
    reason: str,
    *,
    wait_s: float = WAIT_S,
    dry_run: bool = False,
    confirm: Callable[[Erasure], None] = agree,
) -> Erasure:
    """Erase a person; what waits to be sent to nobody else is not sent.

    Asked again, it goes on where it ended. The audit names a hash of the address.

    Args:
        key: From db.suppressions.suppression_key; an address, no domain.
        reason: For the audit.
        wait_s: How long to wait for e-mails that are being sent.
        confirm: Gets what would be erased.
    Raises:
        RequestError: it is no address.
        ProblemError: PostgreSQL does not answer; what was erased stays so.
    """
    if key.startswith('@'):
        raise RequestError(f'{key} is a domain', 'give one address')
    planned = await _count(servers, key)
    if dry_run:
        return planned
    confirm(planned)
    details = {'address': erased_key(key), 'reason': reason}
    async with audited(servers, actor, 'personal.erase', details) as entry:
        done = await erase_now(servers, key, wait_s, planned.emails + planned.freed)
        entry.problem = done.problems[0].what if done.problems else None
    return done


async def _count(servers: Servers, key: str) -> Erasure:
    person = person_of(key)
    alone = shared = under_way = 0
    async for rows in personal_rows(servers, key):
        alone += len(rows.alone)
        shared += len(rows.shared)
        under_way += len(rows.under_way)
    elsewhere = await servers.ask_postgres(partial(count_elsewhere, person=person))
    return Erasure(True, alone, shared, under_way, 0, elsewhere, bool(elsewhere.suppressions))


async def personal_rows(servers: Servers, key: str) -> AsyncIterator[PersonalRows]:
    """Yield the e-mails that concern a person, stretch by stretch."""
    person, last_id = person_of(key), 0
    while True:
        finding = partial(find_person, person=person, after_id=last_id)
        rows = await servers.ask_postgres(finding)
        if rows.last_id is None:
            return
        yield rows
        last_id = rows.last_id


@dataclass(slots=True)
class _Erasing:
    """How far an erasure is."""

    emails: int = 0
    freed: int = 0
    under_way: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    content_ids: list[str] = field(default_factory=list)
    is_whole: bool = True


async def erase_now(
    servers: Servers, key: str, wait_s: float = WAIT_S, expected: int | None = None
) -> Erasure:
    """Erase a person; who asks has written it down.

    Args:
        expected: How many e-mails this concerns, for the progress; None: nobody counted.
    Raises:
        ProblemError: PostgreSQL does not answer; what was erased stays so.
    """
    person, done = person_of(key), _Erasing()
    async for rows in personal_rows(servers, key):
        await _erase_some(servers, key, rows, done)
        if not servers.progress(done.emails + done.freed, expected):
            done.is_whole = False
            break
    await _wait_for_those_under_way(servers, key, done, wait_s)
    elsewhere = await servers.ask_postgres(partial(erase_elsewhere, person=person))
    problems = await _delete_content(servers, done.content_ids)
    problems += _problems_of(done)
    return Erasure(
        False, done.emails, done.freed, len(done.under_way), len(done.kept), elsewhere,
        bool(elsewhere.suppressions), tuple(problems),
    )  # fmt: skip


async def _erase_some(servers: Servers, key: str, rows: PersonalRows, done: _Erasing) -> None:
    done.under_way.update(rows.under_way)
    if rows.alone:
        erased = await servers.ask_postgres(partial(erase_rows, email_ids=rows.alone))
        done.emails += erased.done
        done.content_ids += erased.content_ids
        done.kept.update(erased.left)
    if rows.shared:
        freeing = partial(free_rows, email_ids=rows.shared, person=person_of(key))
        freed = await servers.ask_postgres(freeing)
        done.freed += freed.done
        done.under_way.update(freed.left)


async def _wait_for_those_under_way(
    servers: Servers, key: str, done: _Erasing, wait_s: float
) -> None:
    """Erase what was being sent once it is not any more."""
    deadline = time.monotonic() + wait_s
    # What could not be deleted at once may have been claimed just then.
    while left := sorted(done.under_way | done.kept):
        done.under_way.clear()
        done.kept.clear()
        for email_id in left:
            finding = partial(find_person, person=person_of(key), after_id=email_id - 1, batch=1)
            await _erase_some(servers, key, await servers.ask_postgres(finding), done)
        if not done.under_way or time.monotonic() > deadline:
            return
        await asyncio.sleep(LOOK_EVERY_S)


async def _delete_content(servers: Servers, content_ids: Sequence[str]) -> list[Problem]:
    """Delete attachments in MongoDB that no other e-mail has."""
    if not content_ids or not servers.has_mongo:
        return []
    from db.mongo import delete_content  # noqa: PLC0415 - see there

    adopted = await servers.ask_postgres(was_adopted)

    async def delete(mongo: Any) -> None:
        await servers.ask_postgres(
            lambda pool: delete_content(pool, mongo, content_ids, is_adopted=adopted)
        )

    try:
        await servers.ask_mongo(delete)
    except ContentUnavailableError as error:
        what = f'attachments are left: {error}'
        return [Problem(what, 'cleanup_expired_emails deletes them within two days')]
    return []


def _problems_of(done: _Erasing) -> list[Problem]:
    found = []
    if done.under_way:
        what = f'{counted(len(done.under_way))} being sent now: left as they are'
        found.append(Problem(what, 'erase again in a minute'))
    if done.kept:
        what = f'{counted(len(done.kept))} kept: rows of other tables refer to them'
        found.append(Problem(what, 'delete those rows, and erase again'))
    if not done.is_whole:
        found.append(INTERRUPTED)
    return found
