"""Where events may go, and how long a receiver may ask to be left alone."""

import ipaddress
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from standardwebhooks import Webhook

from db.webhook_deliveries import ClaimedDelivery
from delivery.webhooks.post import _retry_after_s, signed
from delivery.webhooks.target import Resolver, TargetError, check_address, read_target

PRIVATE = [
    '127.0.0.1', '127.8.8.8', '0.0.0.0', '10.0.0.1', '172.16.0.1', '192.168.1.1', '169.254.169.254',
    '100.64.0.1', '100.100.100.200', '192.0.0.192', '198.18.0.1', '224.0.0.1', '240.0.0.1',
    '255.255.255.255', '168.63.129.16', '192.0.2.1',
    '::', '::1', 'fe80::1', 'fe80::1%eth0', 'fc00::1', 'fd00:ec2::254', 'fec0::1', 'ff02::1',
    '::ffff:127.0.0.1', '::ffff:10.0.0.1', '::ffff:a9fe:a9fe', '::127.0.0.1',
    '64:ff9b::7f00:1', '64:ff9b::10.0.0.1', '64:ff9b:1::1', '2002:7f00:1::', '2002:a00:1::1',
    '::ffff:0:127.0.0.1', '2001:db8::1',
]  # fmt: skip
PUBLIC = [
    '8.8.8.8', '1.1.1.1', '2606:4700:4700::1111', '::ffff:8.8.8.8', '64:ff9b::8.8.8.8',
    '2002:808:808::1',
]  # fmt: skip


@pytest.mark.parametrize('address', PRIVATE)
def test_an_address_that_not_everybody_can_reach_is_refused(address):
    with pytest.raises(TargetError, match='not a public address'):
        check_address(address, (), is_tls=True)


@pytest.mark.parametrize('address', PUBLIC)
def test_a_public_address_is_for_https_only(address):
    check_address(address, (), is_tls=True)
    with pytest.raises(TargetError, match='use https'):
        check_address(address, (), is_tls=False)


@pytest.mark.parametrize('address', ['10.1.2.3', '::ffff:10.1.2.3'])
def test_an_allowed_network_takes_http_and_https(address):
    allowed = [ipaddress.ip_network('10.1.2.0/24')]
    check_address(address, allowed, is_tls=False)
    check_address(address, allowed, is_tls=True)
    with pytest.raises(TargetError):
        check_address('10.1.3.1', allowed, is_tls=True)


@pytest.mark.parametrize(
    'host', ['localhost', '127.1', '2130706433', '0x7f000001', '017700000001', '127.0.0.1']
)
async def test_every_spelling_of_loopback_is_looked_up_and_refused(host):
    resolver = Resolver()
    with pytest.raises((TargetError, OSError)):
        await resolver.checked(host, 80, (), is_tls=True)
    resolver.close()


async def test_one_private_address_among_public_ones_is_refused(monkeypatch):
    found = [(2, 1, 6, '', ('8.8.8.8', 443)), (2, 1, 6, '', ('10.0.0.1', 443))]
    monkeypatch.setattr('socket.getaddrinfo', lambda *_, **__: found)
    resolver = Resolver()
    with pytest.raises(TargetError, match=r'10\.0\.0\.1'):
        await resolver.checked('example.com', 443, (), is_tls=True)
    resolver.close()


@pytest.mark.parametrize(
    'url',
    [
        '', 'example.com', '//example.com', 'ftp://example.com/', 'file:///etc/passwd',
        'gopher://example.com/', 'https://', 'https:///path', 'https://u:p@example.com/',
        'https://example.com@evil/', 'https://example.com:0/', 'https://example.com:99999/',
        'https://example.com:x/', 'https://[::1/', 'https://exa mple.com/',
        'https://example.com/\r\nX: y', 'https://example.com/#part', 'https://exämple.com/',
        f'https://example.com/{"a" * 2000}', 'https://example.com\\@evil/',
    ],
)  # fmt: skip
def test_a_url_that_nobody_could_post_to_is_refused(url):
    with pytest.raises(TargetError):
        read_target(url)


def test_a_url_is_read():
    assert read_target('https://example.com:8443/a?b=c').port == 8443
    assert read_target('https://example.com').port == 443
    target = read_target('http://[2606:4700::1]/hook')
    assert (target.host, target.port, target.is_tls) == ('2606:4700::1', 80, False)


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('120', 120), ('0', 0), ('99999999999999', 3600), ('-5', 0), ('soon', 0), ('', 0),
        ('1e9', 0), ('Fri, 31 Dec 9999 23:59:59 GMT', 3600), ('Thu, 01 Jan 1970 00:00:00 GMT', 0),
        ('Fri, 31 Dec 9999 23:59:59', 0),
    ],
)  # fmt: skip
def test_retry_after_is_read_and_bounded(text, seconds):
    assert _retry_after_s({b'Retry-After': text.encode()}) == seconds


def test_each_secret_verifies_the_same_event():
    secrets = ['whsec_c2VjcmV0IG9uZQ==', 'whsec_c2VjcmV0IHR3bw==']
    payload = '{"type": "email.sent", "data": {"recipient": "änna@example.com"}}'
    claimed = ClaimedDelivery(
        1, 1, uuid4(), uuid4(), 'email.sent', payload, 1, 'https://a.example/', secrets
    )
    headers = signed(claimed, datetime.now(UTC))
    for secret in secrets:
        assert Webhook(secret).verify(payload.encode(), headers)['type'] == 'email.sent'
