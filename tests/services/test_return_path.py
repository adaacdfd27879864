"""What is sent with BOUNCE_SECRET has an envelope sender that names the e-mail."""

import dataclasses

import pytest

from db.feedback_suppression import FeedbackRules
from db.suppressions import suppressed
from delivery.assemble import _with_return_path
from delivery.dead_addresses import DeadAddresses
from jobs.send_email import send_email
from tests.unit.bounce_messages import PATHS


@pytest.fixture
def signing(runtime):
    runtime.steps = dataclasses.replace(
        runtime.steps, render=_with_return_path(runtime.contents.render, PATHS)
    )


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
