"""Debian's Exim, OpenSMTPD and Postfix as relays: what they say ends as it should.

What each is asked is the same (`mail_servers.py`); where one cannot do something, the test says so.
"""

from typing import Any

import pytest

from mail.outcome import Outcome
from mail.relay.options import RelayOptions, Tls, make_context
from mail.relay.pool import Relay
from mail_outbox.envelope import Envelope
from mail_outbox.rendered import Rendered
from reporting.dialogue import dialogue
from tests.conftest import wait_until
from tests.debian.mail_servers import PASSWORD, SIZE_LIMIT_BYTES, USER, MailServer
from tests.unit.scripted_relay import ANNA, BOB, rendered, send

HEAD = (
    b'From: Shop <shop@example.com>\r\nTo: anna@example.com\r\nSubject: %s\r\n'
    b'Date: Mon, 30 Nov 2026 12:00:00 +0000\r\nMessage-ID: <%s@example.com>\r\n'
)
PLAIN = HEAD % (b'Hello', b'hello') + b'\r\nHello.\r\n'
EIGHT_BITS = (
    b'MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n'
    b'Content-Transfer-Encoding: 8bit\r\n'
)
# What is lost or changed by servers and clients that count, cut, stuff or encode wrongly.
ODD = {
    b'dots': b'\r\n.\r\n..\r\n.x\r\n\r\n.\r\n',
    b'spaces': b'\r\n  \r\nends in spaces  \t\r\n\t\r\n\r\n\r\n',
    b'from': b'\r\nFrom anna Mon Nov 30 12:00:00 2026\r\n>From here\r\nDATA\r\nQUIT\r\n',
    b'long': b'\r\n' + b'x' * 998 + b'\r\n.' + b'y' * 997 + b'\r\n',
    b'eight-bits': EIGHT_BITS + '\r\nGrüße, 你好, \N{SNOWMAN}\r\n'.encode(),
    b'folded': b'X-Long: a\r\n\tb\r\n c \r\nReferences: <a@b>\r\n <c@d>\r\n\r\nx\r\n',
    b'large': b'\r\n' + (b'0123456789' * 7 + b'\r\n') * 2000,
}  # fmt: skip


def relay_to(server: MailServer, port: str = 'plain', **options: Any) -> Relay:
    place: dict[str, Any] = {
        'name': server.name, 'host': '127.0.0.1', 'port': server.ports[port], 'tls': Tls.NONE,
        'local_hostname': 'client.example.com',
    }  # fmt: skip
    return Relay(RelayOptions(**place | options))


def by_tls(server: MailServer, port: str, **options: Any) -> Relay:
    context = make_context(server.certificate)
    return relay_to(server, port, tls=Tls.STARTTLS, tls_context=context, **options)


@pytest.fixture
def server_with_tls(server):
    if server.name == 'opensmtpd':
        pytest.skip('its TLS is broken, and it logs in nobody in the clear')
    return server


@pytest.fixture
async def relays():
    """Keep relays until the end of the test, and close their connections then."""
    kept: list[Relay] = []
    yield lambda relay: kept.append(relay) or relay
    for relay in kept:
        relay.close_idle(older_than_s=0)


async def test_delivered_messages_are_byte_for_byte_what_was_sent(server, relays):
    relay = relays(relay_to(server))
    sent = [HEAD % (name, name) + rest for name, rest in ODD.items()]
    for message in sent:
        assert (await send(relay, mail=rendered('bob@example.com', message=message))).outcome is (
            Outcome.ACCEPTED
        )
    delivered = await wait_until(
        lambda: found if len(found := server.messages('bob')) >= len(sent) else None
    )
    # Behind the fields that servers put before it.
    bodies = {message[message.index(b'From: Shop') :] for message in delivered}
    assert bodies == {message.replace(b'\r\n', b'\n') for message in sent}


async def test_starttls_that_is_required_is_met_and_its_lack_costs_no_attempt(server, relays):
    encrypted = await send(relays(by_tls(server, 'tls')))
    if server.name == 'opensmtpd':
        # Debian 12's was written for OpenSSL 1.1, and breaks off each handshake.
        assert encrypted.outcome is Outcome.RELEASED
        assert 'SSL' in (encrypted.error or '')
    else:
        assert encrypted.outcome is Outcome.ACCEPTED
    in_the_clear = await send(relays(relay_to(server, 'tls')))
    assert in_the_clear.outcome is Outcome.RELEASED
    assert 'STARTTLS' in (in_the_clear.error or '')


async def test_certificate_of_another_authority_takes_no_mail(server, relays):
    relay = relay_to(server, 'tls', tls=Tls.STARTTLS, tls_context=make_context(None))
    delivery = await send(relays(relay))
    assert delivery.outcome is Outcome.RELEASED
    assert 'SSL' in (delivery.error or '')


@pytest.mark.parametrize('mechanism', ['cram-md5', 'plain', 'login', None])
async def test_login_by_each_mechanism_that_it_offers(server_with_tls, relays, mechanism):
    chosen = () if mechanism is None else (mechanism,)
    login = {'username': USER, 'password': PASSWORD, 'auth_mechanisms': chosen}
    delivery = await send(relays(by_tls(server_with_tls, 'login', **login)))
    if (server_with_tls.name, mechanism) == ('exim', 'login'):  # not set up there
        assert delivery.outcome is Outcome.RELEASED
        assert 'LOGIN' in (delivery.error or '').upper()
    else:
        assert delivery.outcome is Outcome.ACCEPTED


async def test_wrong_password_costs_no_attempt_and_is_tried_once(server_with_tls, relays):
    relay = relays(by_tls(server_with_tls, 'login', username=USER, password='wrong'))
    deliveries = [await send(relay) for _ in range(3)]
    assert {delivery.outcome for delivery in deliveries} == {Outcome.RELEASED}
    assert '535' in (deliveries[0].error or '')
    assert relay.unavailable_for_s() > 0


async def test_relay_that_wants_a_login_and_gets_none(server_with_tls, relays):
    delivery = await send(relays(by_tls(server_with_tls, 'login')))
    if server_with_tls.name == 'postfix':  # which calls it access denied, as of any stranger
        assert delivery.outcome is Outcome.REJECTED
        assert '554 5.7.1' in str(delivery.reply)
    else:
        assert delivery.outcome is Outcome.RELEASED
        assert '530' in (delivery.error or '')


async def test_refused_recipient_is_refused_alone(server, relays):
    delivery = await send(relays(relay_to(server)), mail=rendered(ANNA, 'nobody@example.com', BOB))
    assert delivery.outcome is Outcome.ACCEPTED
    outcomes = {address: outcome for address, (outcome, _) in delivery.recipients.items()}
    assert outcomes == {
        ANNA: Outcome.ACCEPTED, BOB: Outcome.ACCEPTED, 'nobody@example.com': Outcome.REJECTED,
    }  # fmt: skip
    assert '550 5.1.1' in delivery.recipients['nobody@example.com'][1]


async def test_full_mailbox_is_deferred(server, relays):
    delivery = await send(relays(relay_to(server)), mail=rendered('full@example.com'))
    assert delivery.outcome is Outcome.DEFERRED
    assert '452 4.2.2' in str(delivery.reply)


async def test_refused_sender_is_refused_for_good(server, relays):
    mail = Rendered(Envelope('spammer@example.com', (ANNA,)), PLAIN)
    delivery = await send(relays(relay_to(server)), mail=mail)
    assert delivery.outcome is Outcome.REJECTED
    assert '550 5.7.1' in str(delivery.reply)


async def test_refused_content_is_refused_for_good(server, relays):
    if server.name == 'opensmtpd':
        return  # its own filters see no content
    message = HEAD % (b'FORBIDDEN', b'forbidden') + b'\r\nx\r\n'
    delivery = await send(relays(relay_to(server)), mail=rendered(message=message))
    assert delivery.outcome is Outcome.REJECTED
    assert '5.7.1' in str(delivery.reply)


async def test_message_over_the_size_limit_is_never_begun(server, relays):
    message = PLAIN + b'x' * 70 + b'\r\n' + (b'y' * 70 + b'\r\n') * (SIZE_LIMIT_BYTES // 70)
    relay = relays(relay_to(server))
    large = await send(relay, mail=rendered(message=message))
    assert large.outcome is Outcome.REJECTED
    assert str(SIZE_LIMIT_BYTES) in (large.error or '')
    assert (await send(relay)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize('port', ['plain', 'ascii'])
async def test_address_beyond_ascii_goes_where_smtputf8_is_offered(server, relays, port):
    mail = Rendered(Envelope('shop@example.com', ('jürgen@example.com',)), PLAIN)
    delivery = await send(relays(relay_to(server, port)), mail=mail)
    if port == 'plain' and server.name != 'opensmtpd':  # which knows it on no port
        assert delivery.outcome is Outcome.ACCEPTED
        assert await wait_until(lambda: server.messages('jürgen'))
    else:
        assert delivery.outcome is Outcome.REJECTED
        assert 'SMTPUTF8' in (delivery.error or '')


async def test_limit_of_messages_costs_no_attempt(server, relays):
    relay = relays(relay_to(server, 'few'))
    count = 45 if server.name == 'opensmtpd' else 5
    deliveries = [await send(relay, mail=rendered('carl@example.com')) for _ in range(count)]
    outcomes = [delivery.outcome for delivery in deliveries]
    if server.name == 'postfix':  # two a minute
        assert outcomes == [Outcome.ACCEPTED] * 2 + [Outcome.RELEASED] * 3
        assert {delivery.throttled for delivery in deliveries[2:]} == {True}
        assert (relay.rate.is_learned, relay.unavailable_for_s()) == (True, 0)
    else:
        assert outcomes == [Outcome.ACCEPTED] * count


async def test_dialogue_of_ops_relay_test_is_understood(server_with_tls):
    relay = by_tls(server_with_tls, 'login', username=USER, password=PASSWORD)
    steps = {step.step: step for step in await dialogue(relay.options, 'me@example.com')}
    assert steps['greeting'].said.startswith(f'220 {server_with_tls.name}.test')
    assert 'TLSv1.3' in steps['STARTTLS'].said
    assert all(step.is_good for step in steps.values())


async def test_greylisted_mail_is_deferred_and_taken_later(server, relays):
    if server.name != 'postfix':
        return  # postgrey speaks Postfix's policy protocol
    relay = relays(relay_to(server, 'grey'))
    delivery = await send(relay, mail=rendered('carl@example.com'))
    assert delivery.outcome is Outcome.DEFERRED
    assert 'Greylisted' in str(delivery.reply)
    assert (relay.unavailable_for_s(), relay.rate.is_learned) == (0, False)

    async def is_taken() -> bool:
        again = await send(relay, mail=rendered('carl@example.com'))
        return again.outcome is Outcome.ACCEPTED

    await wait_until(is_taken)
