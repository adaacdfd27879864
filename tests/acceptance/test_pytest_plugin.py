"""What an application's own tests get: an outbox without servers, and a worker with them."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest_plugins = ['pytester']

OUTBOX = """
import pytest
from mail_outbox import (
    Attachment, IdempotencyConflictError, InvalidEmailError, NewEmail, attempts, queue_email,
    queue_emails, status,
)
from mail_outbox.recording import TemplateNotFilledError
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

HELLO = {'recipient': 'anna@example.com', 'subject': 'Grüße', 'body_text': 'Hello ü.'}


def test_message_is_as_it_will_be_sent(outbox):
    email_id = queue_email(None, **HELLO, body_html='<p>x</p>', bcc='b@example.com', notify=True,
                           attachments=[Attachment('a.pdf', 'application/pdf', b'%PDF')])
    [queued] = outbox
    assert (queued.id, outbox.woken) == (email_id, 1)
    assert queued.recipients == ('anna@example.com', 'b@example.com')
    assert queued.message['Subject'] == 'Grüße'
    assert queued.message['Bcc'] is None
    assert queued.message['From'] == queued.envelope_from == 'noreply@example.com'
    assert (queued.text.strip(), queued.html.strip()) == ('Hello ü.', '<p>x</p>')
    assert [part.get_filename() for part in queued.message.iter_attachments()] == ['a.pdf']
    assert outbox.to('b@example.com') == [queued] and outbox.to('c@example.com') == []
    outbox.clear()
    assert len(outbox) == 0


def test_each_recipient_has_a_copy_and_raw_mime_is_as_given(outbox):
    queue_email(None, **HELLO | {'recipient': 'a@example.com, b@example.com'}, one_copy_each=True)
    assert outbox[0].message_for('b@example.com')['To'] == 'b@example.com'
    raw = b'From: x@example.com\\r\\nTo: a@example.com\\r\\nX-A: b\\r\\n\\r\\nHello'
    queue_email(None, recipient='', raw=raw)
    assert (outbox[1].message['X-A'], outbox[1].envelope_from) == ('b', 'x@example.com')


def test_begins_empty(outbox):
    assert list(outbox) == []


async def test_whatever_stands_in_for_the_connection_is_awaited_as_it_is(outbox):
    class Fake:
        async def close(self): ...

    for conn in (None, Fake(), AsyncSession(create_async_engine('postgresql+asyncpg://'))):
        assert await queue_email(conn, NewEmail(**HELLO))
        assert len(await queue_emails(conn, [HELLO, HELLO])) == 2
    assert type(queue_email(Session(create_engine('postgresql+psycopg://')), **HELLO)) is int
    assert len(outbox) == 10
    found = await status(None, outbox[0].id)
    assert (found.status, await attempts(None, outbox[0].id)) == ('pending', [])
    assert await status(None, 99) is None


def test_what_is_refused_is_refused_as_in_production(outbox):
    with pytest.raises(InvalidEmailError, match='recipient'):
        queue_email(None, **HELLO | {'recipient': 'anna'})
    with pytest.raises(InvalidEmailError, match='e-mail 1'):
        queue_emails(None, [HELLO, HELLO | {'recipient': 'anna'}])
    first = queue_email(None, **HELLO, idempotency_key='k')
    assert queue_email(None, **HELLO, idempotency_key='k') == first
    with pytest.raises(IdempotencyConflictError):
        queue_email(None, **HELLO | {'subject': 'Other'}, idempotency_key='k')
    assert len(outbox) == 1


def test_backend_of_django_asks_no_database(outbox):
    from django.conf import settings
    from django.core import mail
    import django

    settings.configure(
        EMAIL_BACKEND='mail_outbox.django.EmailBackend',
        DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': '/nowhere/at/all'}},
    )
    django.setup()
    mail.send_mail('s', 't', None, ['anna@example.com'])
    assert outbox[0].text.strip() == 't'


def test_template_is_not_guessed(outbox):
    queue_email(None, recipient='anna@example.com', template_id=7, template_data={'name': 'Anna'})
    assert outbox[0].values['template_id'] == 7
    with pytest.raises(TemplateNotFilledError, match='template 7'):
        outbox[0].message
"""
STACK = """
import psycopg
from mail_outbox import queue_email


def send(mail_stack, recipient):
    with psycopg.connect(mail_stack.database_url) as conn:
        queue_email(conn, recipient=recipient, subject='s', body_text='t', notify=True)
    return mail_stack.wait_for(recipient)


def test_mail_arrives(mail_stack):
    assert mail_stack.inbox() == []
    assert send(mail_stack, 'anna@example.com')['To'] == 'anna@example.com'
    assert len(mail_stack.inbox()) == 1
    assert mail_stack.redis_url.startswith('redis://')


def test_each_test_begins_with_an_empty_inbox(mail_stack):
    assert mail_stack.inbox() == []
    assert send(mail_stack, 'bert@example.com')['Subject'] == 's'


def test_mail_that_does_not_arrive_is_told_with_the_workers_last_words(mail_stack):
    try:
        mail_stack.wait_for('nobody@example.com', timeout_s=0.1)
    except AssertionError as error:
        assert 'worker.started' in str(error)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run tests of an application that has mail_outbox installed."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.delenv('MAIL_OUTBOX_CHECKOUT', raising=False)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        pytester.makeini('[pytest]\nasyncio_mode = auto\n')
        return pytester.runpytest_subprocess('-p', 'mail_outbox.pytest_plugin', *options)

    return run


def test_outbox_has_what_was_queued_without_any_server(run: Any) -> None:
    run(OUTBOX).assert_outcomes(passed=7)


def test_stack_out_of_a_checkout_sends_for_real(run: Any) -> None:
    run(STACK, '--mail-outbox-checkout', str(ROOT)).assert_outcomes(passed=3)


def test_stack_without_a_checkout_is_an_error_that_says_what_is_needed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(STACK, '--mail-outbox-checkout', str(tmp_path))
    found.assert_outcomes(errors=3)
    found.stdout.fnmatch_lines([f'*{tmp_path} is no such checkout: mail_stack needs a checkout*'])
    (tmp_path / 'dev').mkdir()
    (tmp_path / 'dev/stack.py').touch()
    monkeypatch.setenv('MAIL_OUTBOX_CHECKOUT', str(tmp_path))
    run(STACK).stdout.fnmatch_lines([f'*{tmp_path} has no environment yet: mail_stack needs*'])
