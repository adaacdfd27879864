"""Plain SQLAlchemy, not async: an order and its receipt in one transaction.

    pip install '.[sqlalchemy,psycopg,arq]' 'psycopg[binary]'
    export DATABASE_URL=postgresql://... ARQ_REDIS_URL=redis://localhost:6379/1
    python examples/sqlalchemy_receipt.py anna@example.com

Prints the e-mail's id. Without ARQ_REDIS_URL PostgreSQL wakes the workers.
"""

import os
import sys

from arq.connections import RedisSettings
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mail_outbox import InvalidEmailError, queue_email
from mail_outbox.sqlalchemy import wake_after_commit


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    """Something that was bought."""

    __tablename__ = 'orders'
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str]


def order(session: Session, address: str) -> int:
    """Store an order and queue its receipt; return the e-mail's id."""
    bought = Order(address=address)
    session.add(bought)
    session.flush()  # for the order's id
    redis_url = os.environ.get('ARQ_REDIS_URL')
    email_id = queue_email(
        session,
        recipient=address,
        subject=f'Receipt for order {bought.id}',
        body_text='Thank you.',
        idempotency_key=f'receipt-{bought.id}',
        notify=redis_url is None,
    )
    if redis_url is not None:
        wake_after_commit(session, email_id, RedisSettings.from_dsn(redis_url))
    return email_id


def main(address: str) -> int:
    """Order something for this address."""
    engine = create_engine(
        os.environ['DATABASE_URL'].replace('postgresql://', 'postgresql+psycopg://')
    )
    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session, session.begin():
            email_id = order(session, address)
    except InvalidEmailError as error:
        print(error, file=sys.stderr)
        return 1
    print(email_id)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
