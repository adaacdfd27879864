"""By what name a relay is greeted, and what becomes of one that knows only HELO."""

import ssl

import pytest

from mail.outcome import Outcome
from mail.relay.greeting import Extensions, address_literal, is_name, qualified
from mail.relay.options import Tls
from tests.unit.scripted_relay import ScriptedRelay, send


@pytest.mark.parametrize(
    'name', ['mail.example.com', 'a.b', 'mail.example.com.', 'ip-10-0-0-1.ec2.internal']
)
def test_full_name_of_a_host_is_used(name: str) -> None:
    assert qualified(name) == name.rstrip('.')


@pytest.mark.parametrize(
    'name',
    [
        'localhost', 'localhost.localdomain', 'mailhost', '', '.', 'host.local', 'a.localhost',
        '127.0.0.1',
        '1.0.0.0.ip6.arpa', 'my_host.example.com', 'host.example.com\r\nMAIL FROM:<x>',
        'grüße.example.com',
        '-a.example.com', 'a..b', f'{"a" * 64}.example.com', '.'.join(['abc'] * 70),
    ],
)  # fmt: skip
def test_name_that_others_cannot_know_is_not(name: str) -> None:
    assert qualified(name) is None


@pytest.mark.parametrize(
    ('address', 'literal'),
    [
        ('192.0.2.1', '[192.0.2.1]'),
        ('2001:db8::1', '[IPv6:2001:db8::1]'),
        ('fe80::1%eth0', '[IPv6:fe80::1]'),
        ('::ffff:192.0.2.1', '[192.0.2.1]'),
    ],
)
def test_address_is_written_as_smtp_does(address: str, literal: str) -> None:
    assert address_literal(address) == literal
    assert is_name(literal)


@pytest.mark.parametrize(
    'name', ['[192.0.2.256]', '[IPv6:192.0.2.1]', '[::1]', '[IPv6:x]', 'a b', 'a\r\nb', '[a]', '']
)
def test_name_with_another_form_is_none(name: str) -> None:
    assert not is_name(name)


async def test_relay_is_greeted_with_our_address_where_we_have_no_name() -> None:
    async with ScriptedRelay() as server:
        assert (await send(server.relay(local_hostname=None))).outcome is Outcome.ACCEPTED
        assert server.sessions[0].lines[0] == 'EHLO [127.0.0.1]'


@pytest.mark.parametrize(
    'reply', ['500 5.5.1 what', '502 5.5.1 unknown', '504 no', '500-what\r\n500 indeed']
)
async def test_relay_that_knows_no_ehlo_is_greeted_with_helo(reply: str) -> None:
    async with ScriptedRelay({'EHLO': reply}) as server:
        assert (await send(server.relay())).outcome is Outcome.ACCEPTED
        assert server.sessions[0].lines[:2] == ['EHLO test', 'HELO test']


@pytest.mark.parametrize('reply', ['550 5.7.1 go away', '421 4.3.2 busy', '451 later'])
async def test_relay_that_refuses_us_is_not_greeted_again(reply: str) -> None:
    async with ScriptedRelay({'EHLO': reply}) as server:
        assert (await send(server.relay())).outcome is Outcome.RELEASED
        assert 'HELO' not in server.verbs


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'username': 'shop', 'password': 'x'}, 'cannot offer AUTH, which SMTP_USER needs'),
        ({'tls': Tls.STARTTLS}, 'cannot offer STARTTLS, which SMTP_USE_TLS asks for'),
    ],
)
async def test_relay_that_knows_no_ehlo_is_no_use_when_more_is_asked_for(
    options: dict[str, object], told: str
) -> None:
    context = ssl.create_default_context()
    async with ScriptedRelay({'EHLO': '502 5.5.1 unknown'}) as server:
        delivery = await send(server.relay(tls_context=context, **options))
        assert delivery.outcome is Outcome.RELEASED
        assert 'primary knows no EHLO (502 5.5.1 unknown)' in (delivery.error or '')
        assert told in (delivery.error or '')
        assert {'HELO', 'AUTH', 'MAIL'}.isdisjoint(server.verbs)


async def test_relay_that_refuses_helo_as_well_costs_no_attempt() -> None:
    async with ScriptedRelay({'EHLO': '502 no', 'HELO': '502 no'}) as server:
        assert (await send(server.relay())).outcome is Outcome.RELEASED


@pytest.mark.parametrize(
    ('size', 'limit_bytes'),
    [('', 0), ('0', 0), ('35882577', 35882577), ('-1', 0), ('ten', 0), ('²', 0), ('9' * 5000, 0)],
)
def test_size_is_a_limit_where_it_is_a_sensible_number(size: str, limit_bytes: int) -> None:
    assert Extensions.read({'size': size}).size_limit_bytes == limit_bytes


def test_extensions_that_a_relay_does_not_name_are_not_there() -> None:
    assert Extensions.read({}) == Extensions(pipelining=False, most_recipients=None)
    assert Extensions.read({'pipelining': '', 'limits': 'RCPTMAX=7'}) == Extensions(
        pipelining=True, most_recipients=7
    )
