"""The switches that keep mail from leaving."""

import pytest

from mail.outcome import Outcome, Phase, Policy, Reply, decide
from mail.safety import NOT_ALLOWED, NOT_HANDED_OVER, Safety, WithheldError, withheld
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Content, Email, Extras
from mail_outbox.render import render
from mail_outbox.states import Status
from settings import Settings

ANNA, BERT = 'anna@example.com', 'bert@other.example'
ACCEPTED, REJECTED = (Outcome.ACCEPTED, '250 ok'), (Outcome.REJECTED, NOT_ALLOWED)


def message(recipient=f'{ANNA}, {BERT}', **extras):
    email = Email(1, recipient, 'Hi', 'Hello', message_id='<1@a>', extras=Extras(**extras))
    return render(email, Content(), Sender('shop@example.com'), 100_000)


def test_nothing_is_on_by_default():
    assert Settings().safety == Safety()
    assert Safety().names == []


def test_variables_are_read_and_named():
    safety = Settings(
        dry_run='true', override_recipients='QA@example.com, b@example.com',
        allowed_recipient_domains='Example.COM, bücher.example', soft_bounce='1',
    ).safety  # fmt: skip
    assert safety.override_recipients == ('QA@example.com', 'b@example.com')
    assert safety.allowed_domains == {'example.com', 'xn--bcher-kva.example'}
    assert safety.names == [
        'DRY_RUN', 'OVERRIDE_RECIPIENTS', 'ALLOWED_RECIPIENT_DOMAINS', 'SOFT_BOUNCE',
    ]  # fmt: skip


@pytest.mark.parametrize(
    'values',
    [{'override_recipients': 'nobody'}, {'allowed_recipient_domains': '@x@y'}, {'dry_run': 'so'}],
)
def test_wrong_value_is_refused(values):
    with pytest.raises(ValueError, match='validation error'):
        Settings(**values)


def test_dry_run_ends_cancelled_and_does_not_count():
    with pytest.raises(WithheldError, match='dry run') as raised:
        Safety(dry_run=True).narrow(message(), {})
    delivery = withheld(raised.value, Phase.RENDER)
    decision = decide(delivery, 1, 5, None, Policy(60, 3600))
    assert (decision.status, decision.counts, decision.retry_in_s) == (
        Status.CANCELLED,
        False,
        None,
    )
    assert delivery.error == NOT_HANDED_OVER


def test_dry_run_of_what_somebody_got_before_is_sent():
    with pytest.raises(WithheldError) as raised:
        Safety(dry_run=True).narrow(message(), {ANNA: ACCEPTED})
    delivery = withheld(raised.value, Phase.RENDER)
    assert decide(delivery, 2, 5, None, Policy(60, 3600)).status is Status.SENT


def test_only_allowed_domains_get_it_and_the_others_are_settled():
    safety = Safety(allowed_domains=frozenset({'example.com'}))
    rendered, settled = safety.narrow(message(), {})
    assert rendered.envelope.recipients == (ANNA,)
    assert settled == {BERT: REJECTED}
    same = message('Anna@EXAMPLE.com')
    assert safety.narrow(same, {}) == (same, {})
    for outside in ('a@sub.example.com', 'a@notexample.com', BERT):
        with pytest.raises(WithheldError):
            safety.narrow(message(outside), {})


def test_rest_of_an_email_whose_allowed_recipients_have_it_is_over():
    safety = Safety(allowed_domains=frozenset({'example.com'}))
    with pytest.raises(WithheldError) as raised:
        safety.narrow(message(), {ANNA: ACCEPTED})
    assert raised.value.settled == {ANNA: ACCEPTED, BERT: REJECTED}
    assert withheld(raised.value, Phase.RENDER).outcome is Outcome.ACCEPTED


def test_override_gets_what_everybody_was_to_get_with_their_names_in_a_field():
    safety = Safety(override_recipients=('qa@example.com',))
    rendered, _ = safety.narrow(message(cc='cc@example.org', bcc='bcc@example.org'), {})
    assert rendered.envelope.recipients == ('qa@example.com',)
    head = rendered.message.partition(b'\r\n\r\n')[0].replace(b'\r\n ', b' ')
    named = b'X-Original-Recipients: anna@example.com, bert@other.example, cc@example.org, '
    assert named + b'bcc@example.org' in head
    assert b'To: anna@example.com, bert@other.example' in head


def test_override_gets_one_copy_where_each_would_have_his_own():
    safety = Safety(override_recipients=('qa@example.com', 'qb@example.com'))
    rendered, _ = safety.narrow(message(one_copy_each=True), {})
    assert rendered.own_heads == {}
    part = rendered.part(rendered.envelope.recipients)
    assert part.message.startswith(b'X-Original-Recipients: anna@example.com, bert@other.example')


def test_override_of_an_international_address_needs_no_smtputf8():
    safety = Safety(override_recipients=('qa@example.com',))
    rendered, _ = safety.narrow(message('jörg@example.org, anna@example.com'), {})
    part = rendered.part(rendered.envelope.recipients)
    assert part.is_ascii
    assert part.message.isascii()


def test_soft_bounce_takes_refusals_for_good_for_refusals_for_now():
    soft = Safety(soft_bounce=True)
    assert soft.classify(Reply(550, '5.1.1 no')) is Outcome.DEFERRED
    assert soft.classify(Reply(250, 'ok')) is Outcome.ACCEPTED
    assert soft.classify(Reply(421, 'bye')) is Outcome.RELEASED
    assert Safety().classify(Reply(550, '5.1.1 no')) is Outcome.REJECTED
