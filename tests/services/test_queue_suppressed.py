"""Queueing for who gets no mail says so where it is asked to, and templates have names."""

from functools import partial
from typing import Any

import asyncpg
import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings

from actions.tokens import ApiScope
from db.suppressions import add
from mail_outbox import (
    InvalidEmailError,
    NewEmail,
    SuppressedRecipientsError,
    adapters,
    queue_email,
    queue_emails,
    suppressed_recipients,
)
from mail_outbox.recording import RecordedOutbox, recording_driver
from tests.services.adopted import adopt, create_legacy
from tests.services.api_desk import open_desk
from tests.services.connections import WAYS, awaited, opened, use_django

HELLO = {'subject': 'Hello', 'body_text': 'Hello, Anna.'}
COUNT_SQL = 'SELECT count(*) FROM outbound_emails'


@pytest.fixture
async def listed(pool: Any) -> None:
    await add(pool, ['gone@example.com'], reason='hard bounce')
    await add(pool, ['@closed.example'], reason='closed')
    await add(pool, ['anna@example.com'], reason='asked', email_type='news')


@pytest.fixture(params=WAYS)
async def way(request: Any, database: Any, listed: None) -> Any:
    async with opened(request.param, database.dsn) as found:
        yield found


async def test_who_gets_no_mail_is_told_with_the_reason_on_every_connection(way: Any) -> None:
    found = await awaited(
        suppressed_recipients(
            way.conn, ['Gone <Gone@example.com>, anna@example.com', 'x@closed.example'],
            email_type='news',
        )
    )  # fmt: skip
    assert found == {
        'Gone@example.com': 'hard bounce',
        'anna@example.com': 'asked (of the type news)',
        'x@closed.example': 'closed',
    }
    assert await awaited(suppressed_recipients(way.conn, 'anna@example.com')) == {}
    assert await awaited(suppressed_recipients(way.conn, [])) == {}


async def test_mail_for_them_is_refused_only_where_that_is_wanted_and_the_transaction_goes_on(
    way: Any, pool: Any
) -> None:
    news = HELLO | {'recipient': 'bob@example.com', 'bcc': 'anna@example.com', 'email_type': 'news'}
    with pytest.raises(SuppressedRecipientsError, match=r'anna@example\.com') as refused:
        await awaited(queue_email(way.conn, **news, refuse_suppressed=True))
    assert refused.value.reasons == {'anna@example.com': 'asked (of the type news)'}
    assert 'asked' not in str(refused.value)
    await awaited(queue_email(way.conn, **news))
    await awaited(queue_email(way.conn, **news | {'email_type': 'reset'}, refuse_suppressed=True))
    await awaited(way.commit())
    assert await pool.fetchval(COUNT_SQL) == 2


async def test_of_many_the_first_that_is_refused_is_named_and_none_is_queued(
    way: Any, pool: Any
) -> None:
    emails = [
        NewEmail(recipient=to, refuse_suppressed=wants, subject='x', body_text='y')
        for to, wants in (('gone@example.com', None), ('a@example.com', True),
                          ('gone@example.com', True))
    ]  # fmt: skip
    with pytest.raises(SuppressedRecipientsError, match=r'^e-mail 2: '):
        await awaited(queue_emails(way.conn, emails))
    await awaited(way.commit())
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_template_is_given_by_its_name_and_an_unknown_one_names_those_there_are(
    way: Any, pool: Any
) -> None:
    for name in ('welcome', 'receipt'):
        await pool.execute("INSERT INTO email_templates (name, subject) VALUES ($1, 'x')", name)
    anna = {'recipient': 'anna@example.com'}
    await awaited(queue_email(way.conn, **anna, template='welcome', idempotency_key='k'))
    await awaited(queue_email(way.conn, **anna, template='welcome', idempotency_key='k'))
    ids = await awaited(
        queue_emails(way.conn, [anna | {'template': n} for n in ('receipt', 'welcome')])
    )
    for template, said in (
        ('welcom', "template: there is no template 'welcom'; is it 'welcome'?"),
        ('x', "template: there is no template 'x'; there are receipt, welcome"),
    ):
        with pytest.raises(InvalidEmailError) as refused:
            await awaited(queue_email(way.conn, **anna, template=template))
        assert str(refused.value) == said
    with pytest.raises(InvalidEmailError, match=r"^e-mail 1: template: there is no template 'y'"):
        await awaited(queue_emails(way.conn, [anna | {'template': n} for n in ('receipt', 'y')]))
    await awaited(way.commit())
    names = await pool.fetch(
        'SELECT e.id, t.name FROM outbound_emails AS e JOIN email_templates AS t '
        'ON t.id = e.template_id ORDER BY e.id'
    )
    assert [row['name'] for row in names] == ['welcome', 'receipt', 'welcome']
    assert [row['id'] for row in names[1:]] == ids


@pytest.mark.parametrize(
    ('values', 'why'),
    [
        ({'template': 'a', 'template_id': 1}, 'template: give template or template_id, not both'),
        ({'template': ''}, 'template: 0 characters'),
        ({'template': 7}, 'template: must be text'),
        ({'template': 'x', 'raw': b'From: a@example.com\n\nx'}, 'template: cannot be given'),
        ({'refuse_suppressed': 'yes', 'body_text': 'x', 'subject': 'y'}, 'refuse_suppressed: must'),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_its_name(pool: Any, values: Any, why: str) -> None:
    async with pool.acquire() as conn:
        with pytest.raises(InvalidEmailError, match=why):
            await queue_email(conn, recipient='anna@example.com', **values)


async def test_plain_sql_names_a_template_and_is_told_of_one_that_is_none(pool: Any) -> None:
    insert = (
        'INSERT INTO outbound_emails (recipient, template_id) '
        "VALUES ('anna@example.com', mail_template($1)) RETURNING template_id"
    )
    with pytest.raises(asyncpg.PostgresError) as refused:
        await pool.execute(insert, 'welcome')
    assert refused.value.hint == 'there is none at all'
    template_id = await pool.fetchval(
        "INSERT INTO email_templates (name, subject) VALUES ('welcome', 'x') RETURNING id"
    )
    assert await pool.fetchval(insert, 'welcome') == template_id
    with pytest.raises(asyncpg.PostgresError, match="there is no template 'welcom'") as refused:
        await pool.execute(insert, 'welcom')
    assert refused.value.hint == 'there are welcome'


async def test_adopted_templates_without_a_name_are_told_to_have_none(empty_database: Any) -> None:
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'varchar(20)')
    await conn.execute('DROP TABLE IF EXISTS email_templates')
    await conn.execute('CREATE TABLE email_templates (id uuid PRIMARY KEY, slug text)')
    await adopt(conn)
    with pytest.raises(InvalidEmailError, match="there is no template 'a', and no other"):
        await queue_email(conn, recipient='anna@example.com', template='a')
    with pytest.raises(asyncpg.PostgresError, match='there is no template'):
        await conn.fetchval("SELECT mail_template('a')")
    await conn.close()


async def test_django_refuses_where_the_message_asks_and_fail_silently_leaves_it_out(
    database: Any, pool: Any, listed: None
) -> None:
    use_django(database.dsn)
    with override_settings(EMAIL_BACKEND='mail_outbox.django.EmailBackend'):
        message = EmailMessage('Hello', 'Hello.', None, ['gone@example.com'])
        message.outbox = {'refuse_suppressed': True}
        with pytest.raises(SuppressedRecipientsError, match=r'gone@example\.com'):
            message.send()
        assert mail.get_connection(fail_silently=True).send_messages([message]) == 0
        message.outbox = {}
        assert message.send() == 1
    assert await pool.fetchval(COUNT_SQL) == 1


async def test_answer_over_http_names_who_gets_no_mail_beside_the_id(env: Any, pool: Any) -> None:
    async with open_desk(env) as desk:
        client = await desk.client(await desk.token('shop', [ApiScope.SEND]))
        hello = {'subject': 'Hello', 'text': 'Hello.'}
        answer = await client.post('/emails', json=hello | {'to': 'gone@example.com'})
        assert list(answer.json()) == ['id']
        await add(pool, ['gone@example.com'], reason='secret reason')
        await add(pool, ['anna@example.com'], reason='asked', email_type='news')

    async with open_desk(env) as desk:  # the list was empty a moment ago
        client = await desk.client(await desk.token('shop2', [ApiScope.SEND]))
        several = hello | {'to': ['Gone <GONE@example.com>'], 'cc': ['anna@example.com']}
        for key in ('k', 'k'):
            answer = await client.post('/emails', json=several, headers={'Idempotency-Key': key})
            assert answer.status_code == 200
            assert answer.json()['suppressed'] == ['GONE@example.com']
        assert 'secret' not in answer.text
        answer = await client.post(
            '/emails/batch',
            json=[hello | {'to': 'ben@example.com'}, several | {'email_type': 'news'}],
        )
        one, other = answer.json()['data']
        assert list(one) == ['id']
        assert other['suppressed'] == ['GONE@example.com', 'anna@example.com']
        unknown = {'to': 'a@example.com', 'template_id': 'welcome'}
        answer = await client.post('/emails', json=unknown)
        assert answer.status_code == 422
        assert "there is no template 'welcome', and no other" in answer.json()['message']
    assert await pool.fetchval(COUNT_SQL) == 4


class Closes:
    """What stands in for an application's session."""

    def close(self) -> None: ...


def test_an_outbox_in_memory_knows_whom_the_test_puts_on_the_list(monkeypatch: Any) -> None:
    outbox = RecordedOutbox()
    monkeypatch.setattr(adapters, 'stand_in', partial(recording_driver, outbox))
    outbox.suppressed['gone@example.com'] = 'bounced'
    assert suppressed_recipients(Closes(), 'GONE@example.com') == {'GONE@example.com': 'bounced'}
    with pytest.raises(SuppressedRecipientsError):
        queue_email(Closes(), recipient='gone@example.com', **HELLO, refuse_suppressed=True)
    queue_email(Closes(), recipient='anna@example.com', template='welcome', refuse_suppressed=True)
    assert [queued.values['template_id'] for queued in outbox] == ['welcome']
