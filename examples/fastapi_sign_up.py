"""FastAPI with SQLAlchemy 2 (async) and arq: a user and the welcome e-mail, together or not at all.

pip install '.[fastapi,sqlalchemy,asyncpg,arq]' 'sqlalchemy[asyncio]' uvicorn
export DATABASE_URL=postgresql://... ARQ_REDIS_URL=redis://localhost:6379/1
uvicorn --app-dir examples fastapi_sign_up:app

curl -X POST 'localhost:8000/sign-ups?address=anna@example.com'
curl 'localhost:8000/emails/1'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mail_outbox import status
from mail_outbox.fastapi import Outbox, answer_refusals, outbox_of

engine = create_async_engine(
    os.environ['DATABASE_URL'].replace('postgresql://', 'postgresql+asyncpg://')
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The application's own tables."""


class User(Base):
    """Somebody who has signed up."""

    __tablename__ = 'users'
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(String(254), unique=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables, and keep one connection to Redis."""
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
    app.state.redis = await create_pool(RedisSettings.from_dsn(os.environ['ARQ_REDIS_URL']))
    yield
    await app.state.redis.aclose()
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    """Give each request a session."""
    async with new_session() as session:
        yield session


app = FastAPI(lifespan=lifespan)
answer_refusals(app)  # a mistyped address is a 422 that says so

SessionDep = Annotated[AsyncSession, Depends(get_session)]
# The request's e-mails, in the same session; a worker is woken once it has committed.
OutboxDep = Annotated[Outbox, outbox_of(get_session, redis=lambda request: request.app.state.redis)]


@app.post('/sign-ups', status_code=201)
async def sign_up(address: str, session: SessionDep, outbox: OutboxDep) -> dict[str, int]:
    """Add a user and welcome them."""
    user = User(address=address)
    session.add(user)
    try:
        email_id = await outbox.queue_email(
            recipient=address,
            subject='Welcome',
            body_text='Good to have you here.',
            email_type='welcome',
            priority='high',
        )
        await session.commit()
    except IntegrityError as error:  # then there is no e-mail either
        raise HTTPException(409, 'this address has signed up before') from error
    return {'user_id': user.id, 'email_id': email_id}


@app.get('/emails/{email_id}')
async def email(email_id: int, session: SessionDep) -> dict[str, Any]:
    """Tell what has become of an e-mail."""
    found = await status(session, email_id)
    if found is None:
        raise HTTPException(404, 'there is no such e-mail')
    return {'status': found.status, 'attempts': found.attempts, 'error': found.last_error}
