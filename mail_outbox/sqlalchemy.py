"""For SQLAlchemy: the workers are woken when a session commits."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from mail_outbox.wake import wake, wake_sync

if TYPE_CHECKING:
    from arq.connections import ArqRedis, RedisSettings

PENDING = 'mail_outbox.wake_after_commit'  # in a session's info: what is to be called
_tasks: set[Any] = set()  # a loop keeps no task alive


@overload
def wake_after_commit(
    session: AsyncSession | async_scoped_session[Any], email_id: int, redis: 'ArqRedis'
) -> None: ...
@overload
def wake_after_commit(
    session: Session | scoped_session[Any], email_id: int, redis: 'RedisSettings'
) -> None: ...


def wake_after_commit(session: Any, email_id: int, redis: Any) -> None:
    """Wake a worker for an e-mail when the session's transaction commits; not if it rolls back.

    With an AsyncSession that happens in a task of its own, so the commit does not wait for Redis.

    Args:
        session: The one that the e-mail was queued on.
        redis: Of `arq.create_pool`; for a session that is not awaited the RedisSettings.
    """
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    call: Callable[[], Any] = partial(wake_sync, email_id, redis)
    if isinstance(session, AsyncSession):
        session, call = session.sync_session, partial(_start_waking, email_id, redis)
    if PENDING not in session.info:
        session.info[PENDING] = []
        event.listen(session, 'after_commit', _committed)
        event.listen(session, 'after_rollback', _rolled_back)
    session.info[PENDING].append(call)


def _start_waking(email_id: int, redis: Any) -> None:
    import asyncio  # noqa: PLC0415 - the commit of an AsyncSession runs in a loop

    task = asyncio.get_running_loop().create_task(wake(email_id, redis=redis))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _committed(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint was released
        return
    calls: list[Callable[[], Any]] = session.info[PENDING]
    pending, calls[:] = calls[:], []
    for call in pending:
        call()


def _rolled_back(session: Session) -> None:
    session.info[PENDING].clear()
