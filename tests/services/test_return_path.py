"""What is sent with BOUNCE_SECRET has an envelope sender that names the e-mail."""

import dataclasses
import json

import pytest

from db.feedback_suppression import FeedbackRules
from db.senders import allow_senders
from db.suppressions import suppressed
from delivery.dead_addresses import DeadAddresses
from jobs.send_email import send_email
from tests.conftest import wait_until
from tests.services.ops_desk import insert
from tests.services.test_routes import BYE, listed, relay_of
from tests.unit.bounce_messages import PATHS
from tests.unit.scripted_relay import ScriptedRelay


@pytest.fixture
def signing(runtime):
    runtime.steps = dataclasses.replace(runtime.steps, put_own=PATHS.put_on)


async def test_envelope_sender_names_the_e_mail(signing, ctx, queue, inbox):
    email_id = await queue('anna@example.com')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    [message] = inbox.accepted('anna@example.com')
    assert message['mail_from'] == PATHS.of(email_id)
    assert PATHS.email_id(message['mail_from']) == email_id


async def test_an_envelope_sender_of_its_own_stays(signing, ctx, queue, inbox):
    email_id = await queue('anna@example.com', envelope_from='<>')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    [message] = inbox.accepted('anna@example.com')
    assert message['mail_from'] in ('', '<>')


@pytest.fixture
def suppressing(runtime):
    runtime.recorder._dead_addresses = DeadAddresses(runtime.stores.pool, FeedbackRules())


async def test_who_a_relay_does_not_know_gets_no_more_mail(suppressing, ctx, queue, pool, row):
    address = 'gone+5xx-rcpt@example.com'
    email_id = await queue(address)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    reason = (await suppressed(pool, [address])).get(address, '')
    assert reason.startswith('550 5.1.1'), (reason, (await row(email_id))['smtp_response'])


RAW = b'From: Brand <a@brand.example>\r\nTo: anna@example.com\r\nSubject: Hi\r\n\r\nHello\r\n'


async def test_routes_see_the_sender_that_was_there_before_the_return_path(
    start_worker, pool, redis
):
    async with ScriptedRelay(BYE) as main, ScriptedRelay(BYE) as brand:
        routes = [
            {'name': 'ours', 'sender_domain': 'bounces.example', 'relays': ['main']},
            {'name': 'brand', 'sender_domain': 'brand.example', 'relays': ['brand']},
        ]
        await allow_senders(pool, ['@brand.example', '@bounces.example'])
        await start_worker(
            SMTP_HOST='', SMTP_BACKUP_HOST='', RELAYS=listed(main=main, brand=brand),
            ROUTES=json.dumps(routes), BOUNCE_ADDRESS='b@bounces.example',
            BOUNCE_SECRET='a secret of sixteen',
        ).started()  # fmt: skip
        ids = {
            await insert(pool, raw_message=RAW, subject=None, body_text=None): 'brand',
            await insert(pool, from_address='a@brand.example'): 'brand',
            await insert(pool, from_address='a@bounces.example'): 'main',
            await insert(
                pool, raw_message=RAW, subject=None, body_text=None,
                envelope_from='a@bounces.example',
            ): 'main',
        }  # fmt: skip
        for email_id, relay in ids.items():
            await redis.enqueue_job('send_email', email_id)
            await wait_until(lambda email_id=email_id: relay_of(pool, email_id))
            assert await relay_of(pool, email_id) == relay
        signed = [email_id for email_id, relay in ids.items() if relay == 'brand']
        given = [line for one in brand.sessions for line in one.lines if 'MAIL' in line]
        assert [f'<b+{email_id}-' in str(given) for email_id in signed] == [True, True]
