"""What the actions on e-mails share: reasons, batches, and waking the workers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
from arq.connections import ArqRedis

from db.states import RETRYABLE
from mail_outbox.wake import notify
from reporting.live import has_worker
from reporting.problems import INTERRUPTED, NO_WORKER, Problem, ProblemError
from reporting.servers import Servers, answer_or_note
from reporting.wording import cell, counted

BATCH = 500
CAME_BACK_AS = {'bounced': 'bounced', 'complained': 'its recipient complained'}
EMPTIED = 'what it said was deleted when it was sent (EMAIL_DROP_CONTENT)'
MAX_JOBS = 100  # more e-mails than this get no job each: one NOTIFY has the workers sweep them

State = Mapping[str, Any]  # a row of db.reports.read_states
Change = Callable[[asyncpg.Pool, Sequence[int]], Awaitable[list[int]]]  # returns what it changed


@dataclass(frozen=True, slots=True)
class Unchanged:
    """An e-mail that was left as it is, and why."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batches:
    """How far a change came: which e-mails it changed, and how many it reached."""

    changed: list[int]
    reached: int
    problem: Problem | None = None  # what ended it early


async def change_in_batches(
    servers: Servers,
    email_ids: Sequence[int],
    change: Change,
    *,
    before: int = 0,
    total: int | None = None,
) -> Batches:
    """Change e-mails in batches, each committed by itself.

    A batch that fails, or servers.progress, ends it; what was changed stays so.

    Args:
        before: How many earlier calls reached.
        total: How many all calls reach; None when this is the only one.
    """
    changed: list[int] = []
    total = len(email_ids) if total is None else total
    for start in range(0, len(email_ids), BATCH):
        if not servers.progress(before + start, total):
            return Batches(changed, start, INTERRUPTED)
        batch = email_ids[start : start + BATCH]
        try:
            changed += await servers.ask_postgres(partial(_apply, change=change, email_ids=batch))
        except ProblemError as error:
            return Batches(changed, start, error.problem)
    return Batches(changed, len(email_ids))


async def _apply(pool: asyncpg.Pool, change: Change, email_ids: Sequence[int]) -> list[int]:
    return await change(pool, email_ids)


async def announce_due(
    servers: Servers, email_ids: Sequence[int], queue: str, problems: list[Problem]
) -> int:
    """Have e-mails that are due sent at once.

    Returns:
        For how many of them a job was put into Redis; for the others PostgreSQL tells the workers.
    """
    enqueued = None
    if len(email_ids) <= MAX_JOBS:
        putting = partial(_enqueue, email_ids=email_ids, queue=queue)
        enqueued = await answer_or_note(servers.ask_redis(putting), problems)
    if enqueued is None:
        await servers.ask_postgres(notify)
    return enqueued or 0


async def _enqueue(redis: ArqRedis, email_ids: Sequence[int], queue: str) -> int:
    for email_id in email_ids:
        await redis.enqueue_job('send_email', email_id, _queue_name=queue)
    return len(email_ids)


async def idle_problems(servers: Servers, due: int) -> list[Problem]:
    """Say that mail was made due for nobody.

    Without Redis nobody knows, and workers sweep PostgreSQL all the same.
    """
    try:
        if not due or await servers.ask_redis(has_worker):
            return []
    except ProblemError:
        return []
    what = f'{counted(due)} due, but no worker replied'
    remedy = 'it is sent when one starts: `arq worker.WorkerSettings`'
    return [Problem(what, remedy, exit_status=NO_WORKER)]


def why_not(state: State | None) -> str:
    """Say why an e-mail was not made due."""
    if state is None:
        return 'there is no such e-mail'
    match state['status']:
        case status if state['is_emptied'] and status in RETRYABLE:
            return f'{EMPTIED}: queue a new one'
        case 'pending' if state['next_retry_at'] is not None:
            return f'it is pending already, due at {cell(state["next_retry_at"])}'
        case 'pending':
            return 'it is pending already'
        case 'sending':
            return f'{state["claimed_by"]} is sending it'
        case 'sent':
            return f'it was sent at {cell(state["sent_at"])}'
        case 'bounced' | 'complained' as state_now:
            return f'it was sent at {cell(state["sent_at"])}, and {CAME_BACK_AS[state_now]}'
        case 'held':
            return f'it is held: `python -m ops held release {state["id"]}` sends it'
        case 'external':
            return 'the system that was there before sends it, or has sent it'
        case status:
            return f'somebody changed it meanwhile; it is {status}'
