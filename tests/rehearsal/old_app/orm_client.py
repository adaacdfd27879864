"""The application's web part: SQLAlchemy 2, async.

Inserts, selects and updates until standard input ends.

Each round is a line on standard output; whatever goes wrong is an `application error` in the
ledger.
"""

import asyncio
import os
import sys
import traceback
from datetime import datetime, timedelta

from old_app.configuration import (
    DATABASE_URL,
    HAS_ALL_COLUMNS,
    HAS_TIME_ZONES,
    NAME,
    STATUS,
    note,
    now,
)
from old_app.model import EmailStatus, OutboundEmail, new_email
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

PAUSE_S = 0.25
engine = create_async_engine(f'postgresql+asyncpg://{DATABASE_URL}')
new_session = async_sessionmaker(engine, expire_on_commit=False)


async def insert(number: int) -> int:
    """Insert an e-mail that nobody queues: the sweep finds it. Returns its id."""
    async with new_session() as session:
        recipient = f'{NAME}-orm{os.getpid()}-{number}@example.com'
        extra = (
            {'expires_at': now() + timedelta(days=1), 'campaign': 'spring'}
            if HAS_ALL_COLUMNS
            else {}
        )
        email = new_email('orm', recipient, created_at=now() - timedelta(minutes=2), **extra)
        session.add(email)
        await session.commit()
        note(event='inserted', id=email.id, recipient=recipient, kind='orm', not_before=None)
        return email.id


async def read_everything() -> None:
    """Load every row into the classes.

    A state they do not know, or a time of another kind, raises here or below.
    """
    async with new_session() as session:
        for email in await session.scalars(select(OutboundEmail)):
            state = email.status if STATUS in ('enum', 'ENUM') else EmailStatus(email.status)
            assert isinstance(state, EmailStatus), state
            assert isinstance(email.created_at, datetime)
            assert email.created_at <= now() + timedelta(days=1)  # raises where naive meets aware
            assert (email.created_at.tzinfo is not None) == HAS_TIME_ZONES


async def update_one(email_id: int) -> None:
    """Change an e-mail as the application does: a word in it, and a NULL that the class allows."""
    async with new_session() as session:
        email = await session.get(OutboundEmail, email_id)
        assert email is not None, f'{email_id} is gone'
        assert email.recipient.startswith(f'{NAME}-orm')
        email.subject = f'{email.subject} (changed)'
        if HAS_ALL_COLUMNS:
            email.updated_at = None if email_id % 2 else now()
            assert email.template_data == {'name': 'Änne', 'items': [1, 2]}
        await session.commit()


async def press_buttons(number: int) -> None:
    """Do what the dashboards do: count by state, cancel one that is to go out later."""
    async with new_session() as session:
        await session.execute(
            select(OutboundEmail.status, func.count()).group_by(OutboundEmail.status)
        )
        if number % 4:
            return
        recipient = f'{NAME}-orm{os.getpid()}-{number}-cancelled@example.com'
        email = new_email('cancelled', recipient, next_retry_at=now() + timedelta(hours=1))
        session.add(email)
        await session.commit()
        note(event='inserted', id=email.id, recipient=recipient, kind='cancelled', not_before=None)
        await session.execute(
            update(OutboundEmail)
            .where(OutboundEmail.id == email.id, OutboundEmail.status == EmailStatus.PENDING)
            .values(status=EmailStatus.CANCELLED, next_retry_at=None)
        )
        await session.commit()


async def round_of(number: int) -> None:
    email_id = await insert(number)
    await read_everything()
    await update_one(email_id)
    await press_buttons(number)


async def main() -> None:
    """Go round until the end of standard input."""
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    number = 0
    while not ended.done():
        number += 1
        try:
            await round_of(number)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1].name
            note(
                event='application error',
                where=f'orm {where}',
                error=f'{type(error).__name__}: {error}'[:400],
            )
        print(number, flush=True)  # noqa: T201 - a line a round
        await asyncio.sleep(PAUSE_S)
    await engine.dispose()


if __name__ == '__main__':
    asyncio.run(main())
