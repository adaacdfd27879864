"""Addresses beyond ASCII and bodies in 8 bits: as far as a relay offers that (RFC 6531, 6152)."""

from typing import Any

import pytest

from mail.deliver import deliver
from mail.outcome import Delivery, Outcome
from mail.progress import Progress
from mail.route import Relays
from mail_outbox.envelope import Extras
from mail_outbox.rendered import Rendered
from tests.unit.reader import parse, read, rendered
from tests.unit.scripted_relay import ScriptedRelay

PLAIN = {'EHLO': '250-relay.test\r\n250 ENHANCEDSTATUSCODES'}
OFFERS_8BIT = {'EHLO': '250-relay.test\r\n250 8BITMIME'}
OFFERS_BOTH = {'EHLO': '250-relay.test\r\n250-8BITMIME\r\n250 SMTPUTF8'}
JOERG = 'jörg@example.com'


async def sent(done: Rendered, *servers: ScriptedRelay) -> Delivery:
    relays = Relays([server.relay() for server in servers])
    try:
        return await deliver(relays, done, {}, Progress())
    finally:
        relays.close_idle(older_than_s=0)


def outcomes(delivery: Delivery) -> dict[str, Outcome]:
    assert delivery.recipients is not None
    return {to: outcome for to, (outcome, _) in delivery.recipients.items()}


@pytest.mark.parametrize(('script', 'mail'), [
    (OFFERS_8BIT, 'MAIL FROM:<shop@example.com> BODY=8BITMIME'),
    (PLAIN, 'MAIL FROM:<shop@example.com>'),
])  # fmt: skip
async def test_body_goes_in_eight_bits_only_where_they_are_offered(script: Any, mail: str) -> None:
    done = rendered(body_text='Grüße\n.\n', body_html='<p>ü')
    async with ScriptedRelay(script) as server:
        assert (await sent(done, server)).outcome is Outcome.ACCEPTED
        assert server.sessions[0].lines[1] == mail
        [body] = server.bodies
    assert body.isascii() is (script is PLAIN)
    in_seven_bits = done.in_seven_bits()
    assert in_seven_bits is not None
    expected = in_seven_bits.message if script is PLAIN else done.message
    assert body == expected.replace(b'\n.', b'\n..')


async def test_ascii_body_asks_for_nothing() -> None:
    async with ScriptedRelay(OFFERS_BOTH) as server:
        await sent(rendered(), server)
        assert server.sessions[0].lines[1] == 'MAIL FROM:<shop@example.com>'


async def test_message_as_given_in_eight_bits_is_refused_for_good_where_no_relay_takes_it() -> None:
    done = rendered()._replace(message=b'From: a@b\r\n\r\n\xff', eight_bit=None)
    async with ScriptedRelay(PLAIN) as server:
        delivery = await sent(done, server)
        assert delivery.outcome is Outcome.REJECTED
        assert '8BITMIME' in (delivery.error or '')
        assert server.bodies == []
    async with ScriptedRelay(PLAIN) as first, ScriptedRelay(OFFERS_8BIT, 'backup') as second:
        assert (await sent(done, first, second)).outcome is Outcome.ACCEPTED
        assert second.bodies == [b'From: a@b\r\n\r\n\xff\r\n']


async def test_international_address_goes_where_smtputf8_is_offered() -> None:
    done = rendered(recipient=f'Jörg <{JOERG}>')
    async with ScriptedRelay(PLAIN) as first, ScriptedRelay(OFFERS_BOTH, 'backup') as second:
        delivery = await sent(done, first, second)
        assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'backup')
        assert second.sessions[0].lines[1] == 'MAIL FROM:<shop@example.com> SMTPUTF8'
        assert f'<{JOERG}>'.encode() in second.bodies[0]


async def test_others_get_it_in_ascii_where_no_relay_takes_an_international_address() -> None:
    parts: dict[str, Any] = {
        'recipient': f'anna@example.com, Jörg <{JOERG}>',
        'extras': Extras(cc='carl@example.com'),
    }
    async with ScriptedRelay(OFFERS_8BIT) as server:
        delivery = await sent(rendered(**parts), server)
        assert delivery.outcome is Outcome.ACCEPTED
        assert outcomes(delivery) == {
            'anna@example.com': Outcome.ACCEPTED,
            'carl@example.com': Outcome.ACCEPTED,
            JOERG: Outcome.REJECTED,
        }
        assert '5.6.7 it does not offer SMTPUTF8' in (delivery.error or '')
        [body] = server.bodies
        assert body.isascii()
        to = parse(body)['To']
        assert [address.addr_spec for address in to.addresses] == ['anna@example.com']
        assert [group.display_name for group in to.groups] == [None, f'Jörg {JOERG}']
    async with ScriptedRelay(OFFERS_BOTH) as server:
        delivery = await sent(rendered(**parts), server)
        assert set(outcomes(delivery).values()) == {Outcome.ACCEPTED}
        assert [body.isascii() for body in server.bodies] == [True, False]
        assert server.recipients == ['anna@example.com', 'carl@example.com', JOERG]


async def test_international_address_waits_while_a_relay_that_may_take_it_is_away() -> None:
    done = rendered(recipient=f'anna@example.com, {JOERG}')
    async with (
        ScriptedRelay(PLAIN) as first,
        ScriptedRelay({'GREETING': '421 later'}, 'b') as second,
    ):
        delivery = await sent(done, first, second)
    assert delivery.outcome is Outcome.RELEASED
    assert outcomes(delivery) == {'anna@example.com': Outcome.ACCEPTED}


async def test_international_sender_needs_smtputf8_for_everybody() -> None:
    done = rendered(extras=Extras(from_address=f'Jörg <{JOERG}>'))
    async with ScriptedRelay(OFFERS_8BIT) as server:
        assert (await sent(done, server)).outcome is Outcome.REJECTED
    async with ScriptedRelay(OFFERS_BOTH) as server:
        assert (await sent(done, server)).outcome is Outcome.ACCEPTED
        assert server.sessions[0].lines[1] == f'MAIL FROM:<{JOERG}> SMTPUTF8'


def test_international_address_is_read_back_from_the_header() -> None:
    message = read(recipient=f'Jörg <{JOERG}>, 用户@例子.广告')
    found = [a.addr_spec.encode('utf-8', 'surrogateescape') for a in message['To'].addresses]
    assert [address.decode() for address in found] == [JOERG, '用户@xn--fsqu00a.xn--4rr70v']


async def test_one_copy_each_names_nobody_else() -> None:
    everybody = ('anna@example.com', 'bob@example.com', JOERG)
    done = rendered(
        recipient=f'Anna <anna@example.com>, bob@example.com, {JOERG}',
        body_text='ü',
        extras=Extras(one_copy_each=True),
    )
    async with ScriptedRelay(OFFERS_BOTH) as server:
        delivery = await sent(done, server)
        assert outcomes(delivery) == dict.fromkeys(everybody, Outcome.ACCEPTED)
        heads = [body.partition(b'\r\n\r\n')[0] for body in server.bodies]
        to = [line for head in heads for line in head.split(b'\r\n') if line.startswith(b'To: ')]
        assert to == [
            b'To: Anna <anna@example.com>',
            b'To: bob@example.com',
            b'To: ' + JOERG.encode(),
        ]
        assert len({head.partition(b'Message-ID: ')[2] for head in heads}) == 1


async def test_copy_that_is_refused_says_nothing_of_the_others() -> None:
    done = rendered(
        recipient='anna@example.com, bob@example.com, carl@example.com',
        extras=Extras(one_copy_each=True),
    )
    async with ScriptedRelay({'RCPT <bob@example.com>': '550 5.1.1 nobody'}) as server:
        delivery = await sent(done, server)
    assert outcomes(delivery) == {
        'anna@example.com': Outcome.ACCEPTED,
        'bob@example.com': Outcome.REJECTED,
        'carl@example.com': Outcome.ACCEPTED,
    }
