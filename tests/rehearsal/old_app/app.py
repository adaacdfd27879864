"""The Celery application: tasks, routes and beat."""

import contextlib
import os
import smtplib
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from email.message import EmailMessage
from email.utils import make_msgid

import redis
from celery import Celery, Task
from celery.signals import worker_process_init
from old_app.configuration import (
    BROKER_URL,
    CACHE_URL,
    CELERY,
    DATABASE_URL,
    HAS_ALL_COLUMNS,
    RELAY_LATENCY_S,
    RETRY_DELAY_S,
    WRITES_SENDING,
    note,
    now,
)
from old_app.model import EmailStatus, OutboundEmail
from sqlalchemy import create_engine, or_, select, text
from sqlalchemy.orm import sessionmaker

TLS = ssl.create_default_context(cafile=os.environ['SMTP_CA_FILE'])
LOCK_S = 15  # of one e-mail, in the cache: two messages about it may be in the queue
STUCK_S = 60  # a pending e-mail that is older has lost its message
GIVEN_UP_AFTER = timedelta(days=1)
HEALTH_SQL = (
    "INSERT INTO service_health (service, healthy, checked_at) VALUES ('smtp', true, now())"
)

app = Celery('old_app', broker=BROKER_URL)
app.conf.update(
    task_ignore_result=True,
    timezone='UTC',
    broker_connection_retry_on_startup=True,
    task_routes={
        'old_app.tasks.send_email': {'queue': 'high_priority'},
        'old_app.tasks.retry_failed_email': {'queue': 'low_priority'},
    },
    beat_schedule={
        'process-pending': {'task': 'old_app.tasks.process_pending_emails', 'schedule': 2.0},
        'health': {'task': 'old_app.tasks.check_service_health', 'schedule': 3.0},
        'cleanup': {'task': 'old_app.tasks.cleanup_expired_emails', 'schedule': 5.0},
    },
)
app.conf.update(CELERY)

engine = create_engine(f'postgresql+psycopg://{DATABASE_URL}')
new_session = sessionmaker(engine)
cache = redis.Redis.from_url(CACHE_URL)


@worker_process_init.connect
def forget_parents_connections(**_: object) -> None:
    """Give each forked process connections of its own."""
    engine.dispose(close=False)
    cache.connection_pool.reset()


@contextlib.contextmanager
def lock(email_id: int) -> Iterator[bool]:
    """Hold the e-mail's lock; False when another process does."""
    mine = cache.set(f'send-email:{email_id}', '1', nx=True, ex=LOCK_S)
    try:
        yield bool(mine)
    finally:
        if mine:
            cache.delete(f'send-email:{email_id}')


@app.task(bind=True, name='old_app.tasks.send_email', max_retries=None)
def send_email(self: Task, email_id: int) -> None:
    """Send one e-mail and record the outcome after it.

    A refusal is tried again, at the time it says in the row.
    """
    with lock(email_id) as mine, new_session() as session:
        email = session.get(OutboundEmail, email_id) if mine else None
        if email is None or email.status not in (EmailStatus.PENDING, EmailStatus.FAILED):
            return
        if email.next_retry_at is not None and email.next_retry_at > now():
            return  # another message about it was faster, and was refused
        if WRITES_SENDING:
            email.status = EmailStatus.SENDING
            session.commit()
        try:
            deliver(email.id, email.recipient, email.subject or '', email.body_text or '')
        except (smtplib.SMTPException, OSError) as error:
            email.status = EmailStatus.FAILED
            email.attempts += 1
            email.next_retry_at = now() + timedelta(seconds=RETRY_DELAY_S)
            session.commit()
            note(event='failed', id=email_id, not_before=time.time() + RETRY_DELAY_S - 0.05)
            if email.attempts < email.max_attempts:
                raise self.retry(exc=error, countdown=RETRY_DELAY_S) from error
            return
        # No sent_at, as the older of these programs have it.
        email.status = EmailStatus.SENT
        email.attempts += 1
        if HAS_ALL_COLUMNS:
            email.smtp_code, email.smtp_response, email.last_attempt_at = 250, 'OK', now()
        session.commit()
        note(event='recorded', id=email_id)


def deliver(email_id: int, recipient: str, subject: str, body: str) -> None:
    """Hand the message to the relay, which takes its time before and after it has it."""
    message = EmailMessage()
    message['From'], message['To'], message['Subject'] = (
        os.environ['SMTP_FROM_EMAIL'],
        recipient,
        subject,
    )
    message['Message-ID'] = make_msgid(domain='old.example.com')
    message.set_content(body)
    note(event='began', id=email_id)
    time.sleep(RELAY_LATENCY_S / 2)
    with smtplib.SMTP(os.environ['SMTP_HOST'], int(os.environ['SMTP_PORT']), timeout=30) as smtp:
        smtp.starttls(context=TLS)
        smtp.login(os.environ['SMTP_USER'], os.environ['SMTP_PASSWORD'])
        smtp.send_message(message)
    time.sleep(RELAY_LATENCY_S / 2)


@app.task(name='old_app.tasks.retry_failed_email')
def retry_failed_email(email_id: int) -> None:
    """Do what the administrators' button does: try a given-up e-mail once more."""
    with new_session() as session:
        email = session.get(OutboundEmail, email_id)
        if email is None or email.status is EmailStatus.SENT:
            return
        email.status, email.attempts, email.next_retry_at = EmailStatus.PENDING, 0, None
        session.commit()
    send_email.delay(email_id)


@app.task(name='old_app.tasks.process_pending_emails')
def process_pending_emails() -> None:
    """Queue what lost its message and what is due again; beat runs it.

    Nobody looks at what is a day old.
    """
    moment = now()
    waits = OutboundEmail.next_retry_at
    lost = (OutboundEmail.status == EmailStatus.PENDING) & waits.is_(None)
    due = OutboundEmail.status.in_((EmailStatus.PENDING, EmailStatus.FAILED)) & (waits <= moment)
    statement = select(OutboundEmail.id).where(
        or_(lost & (OutboundEmail.created_at < moment - timedelta(seconds=STUCK_S)), due),
        OutboundEmail.attempts < OutboundEmail.max_attempts,
        OutboundEmail.created_at > moment - GIVEN_UP_AFTER,
    )
    with new_session() as session:
        for email_id in session.scalars(statement.limit(50)):
            send_email.delay(email_id)
    note(event='swept')


@app.task(name='old_app.tasks.check_service_health')
def check_service_health() -> None:
    """Note that the relay answers."""
    with engine.begin() as connection:
        connection.execute(text(HEALTH_SQL))


@app.task(name='old_app.tasks.cleanup_expired_emails')
def cleanup_expired_emails() -> None:
    """Delete what the application's own policy lets go."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM sessions WHERE expires_at < now() - interval '2 years'")
        )


@app.task(name='old_app.tasks.build_report')
def build_report(number: int) -> None:
    """Stand for the tasks that have nothing to do with e-mail."""
    note(event='report', number=number)
