"""What becomes of one e-mail, step by step, as it happens."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from db import reports
from logs import hide_addresses
from mail_outbox.states import Status
from reporting.explain import no_such_email
from reporting.live import ask_alive
from reporting.next_step import next_step, tries_again, where_now
from reporting.problems import STILL_WAITING, Document, Problem, ProblemError
from reporting.servers import Servers, answer_or_note
from reporting.wording import length

SOON_S, LATER_S = 0.2, 2.0  # between two looks: at first, and after some minutes
ASK_WORKERS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class MailStep:
    """One thing that happened to an e-mail.

    Attributes:
        what: queued, claimed, a phase of SMTP, an outcome of email_attempts, or its state.
        text: The rest of the sentence; relays and others may have written parts of it.
    """

    at: datetime
    what: str
    text: str


@dataclass(slots=True)
class StepsTold:
    """What has been told of an e-mail already."""

    queued: bool = False
    attempts: int = 0
    claimed_at: datetime | None = None
    claim: tuple[Any, Any] | None = None  # worker and number of an attempt without a row yet
    phase: tuple[Any, Any] = (None, None)
    state: tuple[Any, ...] = ()


def new_steps(
    told: StepsTold,
    email: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    now: Mapping[str, Any] | None = None,
) -> Iterator[MailStep]:
    """Yield what happened since the last call.

    Args:
        told: What calls before have told; it is changed.
        email, attempts: Of db.reports; attempts has every one, the first first.
        now: Of reporting.next_step.where_now.
    """
    if not told.queued:
        told.queued = True
        kind = f' of type {email["email_type"]}' if email['email_type'] else ''
        yield MailStep(email['created_at'], 'queued', f'e-mail {email["id"]}{kind}')
    for made in attempts[told.attempts :]:
        yield from _attempt(told, made)
    told.attempts = max(told.attempts, len(attempts))
    if email['status'] == Status.SENDING:
        last = (attempts[-1]['worker'], attempts[-1]['attempt']) if attempts else None
        # It may have been recorded between the two readings: then this row is of before.
        if last != (email['claimed_by'], email['attempts']):
            yield from _under_way(told, email, now)
        return
    state = (email['status'], email['next_retry_at'], email['attempts'], email['recipient'])
    if state != told.state:
        told.state = state
        at = email['updated_at'] or email['read_at']
        next_is = next_step(email, has_worker=None).removeprefix('Nothing: ')
        yield MailStep(at, email['status'], next_is)


def _claimed(at: datetime, worker: Any, attempt: Any) -> MailStep:
    return MailStep(at, 'claimed', f'by {worker}, attempt {attempt}')


def _attempt(told: StepsTold, made: Mapping[str, Any]) -> Iterator[MailStep]:
    if (made['worker'], made['attempt']) != told.claim:
        yield _claimed(made['started_at'], made['worker'], made['attempt'])
    told.claim = None
    took = timedelta(milliseconds=made['duration_ms'] or 0)
    where = [made['relay']] if made['relay'] else []
    if made['phase'] and made['outcome'] != 'accepted':
        where.append(f'at {made["phase"]}')
    if made['duration_ms'] is not None:
        where.append(f'after {made["duration_ms"]} ms')
    told_text = ': '.join(filter(None, (', '.join(where), _reply(made))))
    yield MailStep(made['started_at'] + took, str(made['outcome']), told_text)


def _reply(made: Mapping[str, Any]) -> str:
    """Return what the relay said, its codes once, without the addresses that it quotes."""
    said = hide_addresses(str(made['reply'] or made['error'] or '')) or ''
    codes = [str(made[name]) for name in ('smtp_code', 'enhanced_code') if made[name]]
    return ' '.join([*(code for code in codes if code not in said[:12].split()), said]).strip()


def _under_way(
    told: StepsTold, email: Mapping[str, Any], now: Mapping[str, Any] | None
) -> Iterator[MailStep]:
    claimed_at = email['claimed_at'] or email['read_at']
    if told.claimed_at is None or (email['claimed_at'] and claimed_at != told.claimed_at):
        told.claimed_at, told.state, told.phase = claimed_at, (), (None, None)
        told.claim = (email['claimed_by'], email['attempts'])
        yield _claimed(claimed_at, email['claimed_by'], email['attempts'])
    if now and (phase := (now['phase'], now['relay'])) != told.phase:
        told.phase = phase
        relay = f'relay {now["relay"]}' if now['relay'] else 'no relay yet'
        since = f', under way for {length(now["since_s"])}' if now['since_s'] is not None else ''
        yield MailStep(email['read_at'], str(now['phase']), f'{relay}{since}')


@dataclass(slots=True)
class MailWatch:
    """Follows one e-mail. Servers that go away are noted in troubles, and waited for.

    Attributes:
        troubles: What keeps it from being followed now; told to whoever looks at it.
        end: Why it was not sent, or not yet; None when it was sent, or is followed still.
    """

    servers: Servers
    email_id: int
    troubles: list[Problem] = field(default_factory=list)
    end: Problem | None = None

    async def steps(self, for_s: float | None) -> AsyncIterator[list[MailStep]]:
        """Yield what happened at each look, until it is over; an empty list too.

        Args:
            for_s: Give up after so long; None: never.
        Raises:
            ProblemError: there is no such e-mail, or nothing answers at the first look.
        """
        told, began_at = StepsTold(), time.monotonic()
        asked_at, workers, email = 0.0, None, None
        while True:
            passed_s = time.monotonic() - began_at
            try:
                email, attempts = await self._read()
            except ProblemError as error:
                if email is None or error.problem.service is None:
                    raise
                self.troubles = [error.problem]
                yield []
            else:
                self.troubles = []
                if time.monotonic() - asked_at > ASK_WORKERS_EVERY_S and _needs_worker(email):
                    asked_at, workers = time.monotonic(), await self._ask_workers()
                now = where_now(email, workers[0]) if workers else None
                if workers and not workers[1]:
                    self.troubles = [*self.troubles, NOBODY_TO_SEND]
                yield list(new_steps(told, email, attempts, now))
                if not _needs_worker(email):
                    self.end = _why_unsent(email)
                    return
            if for_s is not None and passed_s >= for_s:
                self.end = _still(email, for_s)
                return
            await asyncio.sleep(min(LATER_S, SOON_S + passed_s / 100))

    async def _read(self) -> tuple[Document, list[Document]]:
        reading = partial(reports.read_email, email_id=self.email_id, with_content=False)
        email = await self.servers.ask_postgres(reading)
        if email is None:
            raise ProblemError(await no_such_email(self.servers, self.email_id))
        made = partial(reports.read_attempts, email_id=self.email_id)
        return email, await self.servers.ask_postgres(made)

    async def _ask_workers(self) -> Any:
        return await answer_or_note(self.servers.ask_redis(ask_alive), self.troubles)


NOBODY_TO_SEND = Problem(
    'no worker replies', 'start one with `arq worker.WorkerSettings`, or read its log'
)


def _needs_worker(email: Mapping[str, Any]) -> bool:
    """Whether something will still happen by itself."""
    return email['status'] == Status.SENDING or tries_again(email)


def _why_unsent(email: Mapping[str, Any]) -> Problem | None:
    if email['status'] == Status.SENT:
        return None
    what = f'e-mail {email["id"]} was not sent: it is {email["status"]}'
    if email['status'] in (Status.BOUNCED, Status.COMPLAINED):
        what = f'e-mail {email["id"]} was sent, and is {email["status"]}'
    return Problem(what, f'`python -m ops explain {email["id"]}` says why, and what to do')


def _still(email: Mapping[str, Any], for_s: float) -> Problem:
    what = f'e-mail {email["id"]} is still {email["status"]} after {length(for_s)}'
    remedy = (
        f'`python -m ops explain {email["id"]}` says what it waits for, '
        f'`python -m ops watch {email["id"]}` goes on'
    )
    return Problem(what, remedy, exit_status=STILL_WAITING)
