"""Django's e-mail goes through the outbox: each message as Django's own backends would send it."""

import asyncio
import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage as ParsedMessage
from email.mime.image import MIMEImage
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import BadHeaderError, EmailMessage, EmailMultiAlternatives
from django.db import connection, transaction
from django.test import override_settings
from django.utils.functional import lazystr

from db.senders import allow_senders
from jobs.send_email import send_email
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.wake import CHANNEL
from tests.conftest import wait_until
from tests.services.connections import use_django

BACKEND = 'mail_outbox.django.EmailBackend'
COUNT_SQL = 'SELECT count(*) FROM outbound_emails'


@pytest.fixture(autouse=True)
def backend(database: Any) -> Iterator[None]:
    use_django(database.dsn)
    with override_settings(EMAIL_BACKEND=BACKEND, DEFAULT_FROM_EMAIL='webmaster@localhost'):
        yield
    connection.close()


@pytest.fixture
async def sent(pool: Any, ctx: Any, inbox: Any) -> Any:
    """Send what is queued; return each as it came to the relay, with its envelope."""
    await allow_senders(pool, ['noreply@example.com', '@shop.example'])

    async def sent() -> list[tuple[dict[str, Any], ParsedMessage]]:
        for row in await pool.fetch('SELECT id FROM outbound_emails ORDER BY id'):
            result = await send_email(ctx, row['id'])
            assert result['status'] == 'sent', await pool.fetchval(
                'SELECT last_error FROM outbound_emails WHERE id = $1', row['id']
            )
        return [
            (entry, email.message_from_bytes(inbox.message(entry), policy=email.policy.default))
            for entry in inbox.accepted()
        ]

    return sent


async def test_send_mail_is_queued_and_rolled_back_with_the_transaction(pool: Any) -> None:
    with transaction.atomic():
        assert mail.send_mail('Hello', 'Hello, Anna.', None, ['anna@example.com']) == 1
        assert await pool.fetchval(COUNT_SQL) == 0
        transaction.set_rollback(True)
    assert await pool.fetchval(COUNT_SQL) == 0
    assert mail.send_mail('Hello', 'Hello, Anna.', None, ['anna@example.com']) == 1
    assert await pool.fetchval(COUNT_SQL) == 1


async def test_everything_a_message_has_arrives(sent: Any) -> None:
    message = EmailMultiAlternatives(
        subject='Grüße', body='Text ü', from_email='Shop <billing@shop.example>',
        to=['Änne <anna@example.com>', 'bert@example.com'], cc=['cc@example.com'],
        bcc=['bcc@example.com'], reply_to=['help@shop.example', 'Desk <desk@shop.example>'],
        headers={
            'X-Order': '505',
            'Message-ID': '<order-505@shop.example>',
            'sender': 'robot@shop.example',
        },
    )  # fmt: skip
    message.attach_alternative('<p>Text ü</p>', 'text/html')
    message.attach('a.pdf', b'%PDF', 'application/pdf')
    message.attach('ü.txt', 'Größe', 'text/plain')
    inner = EmailMessage('inner', 'body', 'a@shop.example', ['b@example.com'])
    message.attach('inner.eml', inner, 'message/rfc822')
    assert message.send() == 1
    [(entry, found)] = await sent()
    assert sorted(entry['rcpt_to']) == [
        'anna@example.com', 'bcc@example.com', 'bert@example.com', 'cc@example.com',
    ]  # fmt: skip
    assert found['From'] == 'Shop <billing@shop.example>'
    assert found['To'] == 'Änne <anna@example.com>, bert@example.com'
    assert (found['Cc'], found['Bcc'], found['Sender']) == (
        'cc@example.com', None, 'robot@shop.example',
    )  # fmt: skip
    assert found['Reply-To'] == 'help@shop.example, Desk <desk@shop.example>'
    assert (found['Subject'], found['X-Order']) == ('Grüße', '505')
    assert found['Message-ID'] == '<order-505@shop.example>'
    assert found.get_body(('plain',)).get_content().strip() == 'Text ü'
    assert found.get_body(('html',)).get_content().strip() == '<p>Text ü</p>'
    pdf, text, inner = found.iter_attachments()
    assert (pdf.get_filename(), pdf.get_content()) == ('a.pdf', b'%PDF')
    assert (text.get_filename(), text.get_content().strip()) == ('ü.txt', 'Größe')
    assert inner.get_content_type() == 'message/rfc822'
    assert inner.get_content()['Subject'] == 'inner'


def a_part_with_more() -> EmailMessage:
    message = EmailMultiAlternatives('s', 'text', to=['anna@example.com'])
    image = MIMEImage(b'GIF89a', 'gif')
    image.add_header('Content-Description', 'our logo')
    message.attach(image)
    return message


def amp() -> EmailMessage:
    message = EmailMultiAlternatives('s', 'text', to=['anna@example.com'])
    message.attach_alternative('<html amp4email></html>', 'text/x-amp-html')
    message.attach_alternative('<p>text</p>', 'text/html')
    return message


def own_class() -> EmailMessage:
    return OwnMessage('s', 'text', to=['anna@example.com'])


def only_bcc() -> EmailMessage:
    return EmailMessage('s', 'text', bcc=['anna@example.com'])


def another_to() -> EmailMessage:
    return EmailMessage(
        's', 'text', to=['anna@example.com'], headers={'To': 'All <all@shop.example>'}
    )


class OwnMessage(EmailMessage):
    """Makes its message otherwise."""

    def message(self) -> Any:
        made = super().message()
        made['X-Own'] = 'yes'
        return made


@pytest.mark.parametrize(
    ('make', 'types'),
    [
        (a_part_with_more, ['multipart/mixed', 'text/plain', 'image/gif']),
        (amp, ['multipart/alternative', 'text/plain', 'text/x-amp-html', 'text/html']),
        (own_class, ['text/plain']),
        (only_bcc, ['text/plain']),
        (another_to, ['text/plain']),
    ],
)
async def test_what_the_outbox_has_no_words_for_goes_as_django_makes_it(
    sent: Any, make: Any, types: list[str]
) -> None:
    message = make()
    message.from_email = 'Shop <billing@shop.example>'
    assert message.send() == 1
    [(entry, found)] = await sent()
    assert entry['rcpt_to'] == ['anna@example.com']
    assert entry['mail_from'] == 'billing@shop.example'
    assert [part.get_content_type() for part in found.walk()] == types
    expected = message.message()
    for name in ('From', 'To', 'Cc', 'Subject', 'X-Own'):
        assert found[name] == expected[name]
    assert found['Bcc'] is None


@pytest.mark.parametrize('subtype', ['mixed', 'related'])
async def test_image_that_the_application_has_made_a_part_of_is_shown_in_the_html(
    sent: Any, pool: Any, subtype: str
) -> None:
    message = EmailMultiAlternatives('s', 'text', to=['anna@example.com'])
    message.attach_alternative('<img src="cid:logo">', 'text/html')
    message.mixed_subtype = subtype
    image = MIMEImage(b'GIF89a', 'gif', name='logo.gif')
    image.add_header('Content-ID', '<logo>')
    image.add_header('Content-Disposition', 'inline', filename='logo.gif')
    message.attach(image)
    message.send()
    [(_, found)] = await sent()
    assert [part.get_content_type() for part in found.walk()] == [
        'multipart/alternative', 'text/plain', 'multipart/related', 'text/html', 'image/gif',
    ]  # fmt: skip
    *_, part = found.walk()
    assert (part['Content-ID'], part.get_filename(), part.get_content()) == (
        '<logo>', 'logo.gif', b'GIF89a',
    )  # fmt: skip
    assert await pool.fetchval('SELECT raw_message FROM outbound_emails') is None


@pytest.mark.parametrize('make', [amp, only_bcc, a_part_with_more])
async def test_what_goes_as_django_makes_it_must_say_who_it_is_from(pool: Any, make: Any) -> None:
    with pytest.raises(InvalidEmailError, match=r'^from_email: is missing.*DEFAULT_FROM_EMAIL'):
        make().send()
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_django_6_has_no_mixed_subtype(pool: Any, monkeypatch: Any) -> None:
    monkeypatch.delattr(EmailMessage, 'mixed_subtype')
    assert mail.send_mail('s', 't', None, ['anna@example.com']) == 1
    assert await pool.fetchval(COUNT_SQL) == 1


async def test_calendar_is_an_invitation(sent: Any) -> None:
    message = EmailMultiAlternatives('s', 'text', to=['anna@example.com'])
    event = 'BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n'
    message.attach_alternative(event, 'text/calendar; method=REQUEST')
    message.send()
    [(_, found)] = await sent()
    [part] = [part for part in found.walk() if part.get_content_type() == 'text/calendar']
    assert part.get_param('method') == 'REQUEST'


async def test_html_subtype_and_lazy_texts_are_taken(sent: Any) -> None:
    message = EmailMessage(lazystr('Lazy'), lazystr('<p>x</p>'), to=[lazystr('anna@example.com')])
    message.content_subtype = 'html'
    message.send()
    [(_, found)] = await sent()
    assert (found['Subject'], found.get_content_type()) == ('Lazy', 'text/html')
    assert found['From'] == 'Example <noreply@example.com>', 'the workers own: nobody chose another'


async def test_senders_that_django_makes_up_are_left_to_the_workers(pool: Any) -> None:
    with override_settings(ADMINS=[('Ann', 'ann@example.com')]):
        mail.mail_admins('s', 't')
    mail.send_mail('s', 't', None, ['anna@example.com'])
    rows = await pool.fetch('SELECT from_address FROM outbound_emails')
    assert [row['from_address'] for row in rows] == [None, None]
    chosen = override_settings(DEFAULT_FROM_EMAIL='shop@example.com')
    with chosen, pytest.raises(InvalidEmailError, match='shop@example'):
        mail.send_mail('s', 't', None, ['anna@example.com'])


async def test_sender_that_is_not_allowed_is_refused_with_the_remedy(pool: Any) -> None:
    with pytest.raises(InvalidEmailError, match=r'ops sender add boss@other\.example'):
        mail.send_mail('s', 't', 'boss@other.example', ['anna@example.com'])
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_all_or_none_of_many_are_queued(pool: Any) -> None:
    many = [('s', 't', None, [to]) for to in ('a@example.com', 'nobody', 'b@example.com')]
    with pytest.raises(InvalidEmailError, match='nobody'):
        mail.send_mass_mail(many)
    assert await pool.fetchval(COUNT_SQL) == 0
    assert mail.send_mass_mail(many, fail_silently=True) == 2
    assert await pool.fetchval(COUNT_SQL) == 2


async def test_failure_that_is_silent_leaves_the_transaction_usable(pool: Any) -> None:
    with transaction.atomic():
        message = EmailMessage('s', 't', to=['a@example.com'])
        message.outbox = {'template_id': 'nope'}  # PostgreSQL refuses it
        assert message.send(fail_silently=True) == 0
        assert mail.send_mail('s', 't', None, ['b@example.com']) == 1
    assert await pool.fetchval('SELECT recipient FROM outbound_emails') == 'b@example.com'


async def test_line_end_in_a_header_is_djangos_own_error() -> None:
    with pytest.raises(BadHeaderError):
        mail.send_mail('a\nBcc: b@example.com', 't', None, ['anna@example.com'])


async def test_nobody_to_send_to_is_nothing_sent(pool: Any) -> None:
    assert EmailMessage('s', 't').send() == 0
    assert mail.get_connection().send_messages([EmailMessage('s', 't')]) == 0
    assert mail.get_connection().send_messages([]) == 0
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_more_than_django_knows_is_said_beside_the_message(pool: Any) -> None:
    message = EmailMessage('s', 't', to=['anna@example.com'])
    message.outbox = {'priority': 'high', 'idempotency_key': 'k'}
    message.send()
    assert await pool.fetchrow('SELECT id, priority, idempotency_key FROM outbound_emails') == (
        message.outbox_id, 0, 'k',
    )  # fmt: skip


@pytest.mark.parametrize('wake', ['notify', 'none', 'arq'])
async def test_workers_are_woken_as_the_setting_says(
    pool: Any, redis: Any, stack: Any, wake: str
) -> None:
    setting = {'WAKE': wake}
    if wake == 'arq':
        setting['REDIS_URL'] = stack.env['ARQ_REDIS_URL']
    told: list[Any] = []
    async with pool.acquire() as conn:
        await conn.add_listener(CHANNEL, lambda *said: told.append(said))
        with override_settings(MAIL_OUTBOX=setting):

            def order() -> None:  # in a thread, as a view is
                with transaction.atomic():
                    mail.send_mail('s', 't', None, ['anna@example.com'])
                    assert not told
                connection.close()

            await asyncio.to_thread(order)
        if wake == 'notify':
            await wait_until(lambda: told)
        else:
            await conn.fetchval('SELECT 1')
            assert told == []
        await conn.reset()
    assert [job.args[0] for job in await redis.queued_jobs()] == [1] * (wake == 'arq')


@pytest.mark.parametrize(
    ('setting', 'named'),
    [
        ({'WAKEUP': 'arq'}, "'WAKEUP' is none of DATABASE, WAKE, REDIS_URL"),
        ({'WAKE': 'redis'}, "WAKE is 'redis', and none of notify, arq, none"),
        ({'WAKE': 'arq'}, 'REDIS_URL belong together'),
        ({'REDIS_URL': 'redis://'}, 'REDIS_URL belong together'),
    ],
)
def test_wrong_setting_is_named(setting: dict[str, str], named: str) -> None:
    with override_settings(MAIL_OUTBOX=setting), pytest.raises(ImproperlyConfigured, match=named):
        mail.get_connection()
