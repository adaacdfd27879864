"""One Celery task per e-mail.

Claim the row, send it on an SMTP connection of its own, record the outcome.

Kept as a good Celery application would have it, without what would only slow it down: no result
backend, the cheaper of the standard library's two ways to build a message, and no look-up of the
local host's name for each connection.
"""

import os
import smtplib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime, formataddr, make_msgid

from celery import Celery, Task
from celery.signals import worker_process_init
from sqlalchemy import create_engine, func, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

SMTP_HOST, SMTP_PORT = os.environ['SMTP_HOST'], int(os.environ['SMTP_PORT'])
FROM_EMAIL, FROM_NAME = os.environ['SMTP_FROM_EMAIL'], os.environ['SMTP_FROM_NAME']
LOCAL_HOSTNAME = socket.getfqdn()
RETRY_BASE_DELAY_S = 60
TLS = (
    ssl.create_default_context(cafile=os.environ['SMTP_CA_FILE'])
    if os.environ.get('SMTP_CA_FILE')
    else None
)

app = Celery('mail', broker=os.environ['CELERY_BROKER_URL'])
app.conf.update(task_ignore_result=True, timezone='UTC', broker_connection_retry_on_startup=True)

engine = create_engine(os.environ['SQLALCHEMY_URL'])
new_session = sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """SQLAlchemy's registry."""


class OutboundEmail(Base):
    """The columns of the outbox that sending needs."""

    __tablename__ = 'outbound_emails'

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str]
    subject: Mapped[str | None]
    body_text: Mapped[str | None]
    body_html: Mapped[str | None]
    status: Mapped[str]
    attempts: Mapped[int]
    max_attempts: Mapped[int]
    smtp_code: Mapped[int | None]
    smtp_response: Mapped[str | None]
    next_retry_at: Mapped[datetime | None]
    last_attempt_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


@worker_process_init.connect
def forget_parents_connections(**_: object) -> None:
    """Give each forked process connections of its own."""
    engine.dispose(close=False)


@app.task(bind=True, max_retries=None)
def send_email(self: Task, email_id: int) -> None:
    """Send one e-mail; what fails for a while is tried again by Celery, later each time."""
    with new_session() as session:
        email = claim(session, email_id)
        if email is None:
            return
        try:
            deliver(email)
        except smtplib.SMTPResponseException as error:
            delay_s = RETRY_BASE_DELAY_S * 2 ** (email.attempts - 1)
            reason = str(error.smtp_error)
            record(
                session,
                email,
                status='failed',
                smtp_code=error.smtp_code,
                smtp_response=reason,
                retry_in_s=delay_s,
            )
            if error.smtp_code < 500 and email.attempts < email.max_attempts:
                raise self.retry(exc=error, countdown=delay_s) from error
            return
        record(
            session,
            email,
            status='sent',
            smtp_code=250,
            smtp_response='OK',
            sent_at=datetime.now(UTC),
        )


def claim(session: Session, email_id: int) -> OutboundEmail | None:
    """Mark the row as being sent, and commit, so that nobody sends it twice."""
    statement = (
        update(OutboundEmail)
        .where(OutboundEmail.id == email_id, OutboundEmail.status.in_(('pending', 'failed')))
        .values(status='sending', attempts=OutboundEmail.attempts + 1, last_attempt_at=func.now())
        .returning(OutboundEmail)
    )
    email = session.scalars(statement).one_or_none()
    session.commit()
    return email


def deliver(email: OutboundEmail) -> None:
    """Build the message and hand it to the relay on a new connection."""
    message = MIMEMultipart('alternative')
    message['From'] = formataddr((FROM_NAME, FROM_EMAIL))
    message['To'] = email.recipient
    message['Subject'] = email.subject or ''
    message['Date'] = format_datetime(datetime.now(UTC))
    message['Message-ID'] = make_msgid(domain=FROM_EMAIL.rpartition('@')[2])
    message.attach(MIMEText(email.body_text or '', 'plain', 'utf-8'))
    if email.body_html:
        message.attach(MIMEText(email.body_html, 'html', 'utf-8'))
    with smtplib.SMTP(SMTP_HOST, SMTP_PORT, local_hostname=LOCAL_HOSTNAME, timeout=30) as smtp:
        if TLS:
            smtp.starttls(context=TLS)
        smtp.sendmail(FROM_EMAIL, [email.recipient], message.as_string())


def record(
    session: Session, email: OutboundEmail, *, retry_in_s: float | None = None, **changes: object
) -> None:
    """Write down how the attempt ended."""
    for column, value in changes.items():
        setattr(email, column, value)
    now = datetime.now(UTC)
    email.updated_at = now
    email.next_retry_at = None if retry_in_s is None else now + timedelta(seconds=retry_in_s)
    session.commit()
