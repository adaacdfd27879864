"""What providers call with: read, verified, and refused where it is somebody else's."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from mail.bounce.providers import (
    read_brevo,
    read_mailgun,
    read_postmark,
    read_sendgrid,
    read_ses,
)
from tests.unit.bounce_messages import PATHS
from web.hooks.signatures import has_password, is_mailgun, is_sendgrid
from web.hooks.sns import SIGNED, NotFromSnsError, SnsMessages, check_url

TOPIC = 'arn:aws:sns:eu-west-1:123456789012:bounces'
CERTIFICATE_URL = 'https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem'
AT = '2026-11-30T12:00:00.000Z'

SES_BOUNCE = {
    'notificationType': 'Bounce',
    'bounce': {
        'bounceType': 'Permanent', 'bounceSubType': 'General', 'timestamp': AT, 'feedbackId': 'f1',
        'bouncedRecipients': [
            {'emailAddress': 'anna@example.net', 'status': '5.1.1', 'action': 'failed',
             'diagnosticCode': 'smtp; 550 5.1.1 user unknown'},
        ],
    },
    'mail': {'timestamp': AT, 'messageId': '0100018abcdef', 'source': PATHS.of(7)},
}  # fmt: skip
EVENTS = [
    (read_ses, SES_BOUNCE, 'bounce', 7),
    (read_ses, SES_BOUNCE | {'bounce': SES_BOUNCE['bounce'] | {'bounceType': 'Transient'}},
     'soft-bounce', 7),
    (read_ses, {'eventType': 'Complaint', 'mail': SES_BOUNCE['mail'], 'complaint': {
        'complainedRecipients': [{'emailAddress': 'anna@example.net'}], 'feedbackId': 'f2'}},
     'complaint', 7),
    (read_postmark, {'RecordType': 'Bounce', 'Type': 'HardBounce', 'ID': 4, 'BouncedAt': AT,
                     'Email': 'anna@example.net', 'Details': 'no such user'}, 'bounce', None),
    (read_postmark, {'RecordType': 'SpamComplaint', 'Type': 'SpamComplaint', 'ID': 5,
                     'Email': 'anna@example.net'}, 'complaint', None),
    (read_mailgun, {'event': 'failed', 'severity': 'permanent', 'id': 'x', 'timestamp': 1.5e9,
                    'recipient': 'anna@example.net', 'envelope': {'sender': PATHS.of(7)},
                    'delivery-status': {'code': 550, 'message': '5.1.1 unknown'},
                    'message': {'headers': {'message-id': 'm1@example.com'}}}, 'bounce', 7),
    (read_mailgun, {'event': 'failed', 'severity': 'temporary', 'recipient': 'anna@example.net'},
     'delay', None),
    (read_sendgrid, [{'event': 'bounce', 'type': 'bounce', 'email': 'anna@example.net',
                      'status': '5.1.1', 'sg_event_id': 'e', 'timestamp': 1764504000,
                      'smtp-id': '<m1@example.com>', 'reason': '550 5.1.1 unknown'}],
     'bounce', None),
    (read_sendgrid, [{'event': 'spamreport', 'email': 'anna@example.net'}], 'complaint', None),
    (read_brevo, {'event': 'hard_bounce', 'email': 'anna@example.net', 'id': 1,
                  'message-id': '<m1@example.com>', 'ts_event': 1764504000}, 'bounce', None),
    (read_brevo, {'event': 'spam', 'email': 'anna@example.net'}, 'complaint', None),
]  # fmt: skip


@pytest.mark.parametrize(('read', 'event', 'kind', 'email_id'), EVENTS)
def test_events_are_read(read, event, kind, email_id):
    [report] = read(event, PATHS)
    assert (report.kind.value, report.email_id) == (kind, email_id)
    assert report.recipient == 'anna@example.net'
    assert report.is_trusted
    assert read(event, PATHS)[0].key == report.key


@pytest.mark.parametrize('read', [read_ses, read_postmark, read_mailgun, read_sendgrid, read_brevo])
@pytest.mark.parametrize(
    'event',
    [
        None, [], {}, 'x', 7, [None], [[]], {'event': []},
        {'mail': 7, 'notificationType': 'Bounce'},
        {'notificationType': 'Bounce', 'bounce': {'bouncedRecipients': [7, {}, None]}},
        {'event': 'failed', 'severity': 'permanent', 'timestamp': 1e300, 'recipient': {'a': 1}},
        {'event': 'hard_bounce', 'email': '\ud800\0', 'ts': -1e300},
        {'RecordType': 'Bounce', 'Type': 'HardBounce', 'Email': 'x' * 10_000, 'BouncedAt': 'soon'},
        {'event': 'delivered', 'email': 'anna@example.net'},
    ],
)  # fmt: skip
def test_any_json_is_read_without_an_error(read, event):
    for report in read(event, PATHS):
        assert report.recipient is None or len(report.recipient) <= 320


@pytest.mark.parametrize('time', [1e308, -1e18, '0001-01-01T00:00:00+14:00', '9999-12-31', 'now'])
def test_time_that_no_server_can_reckon_with_is_none(time):
    [report] = read_brevo({'event': 'spam', 'email': 'anna@example.net', 'ts_event': time}, None)
    assert (report.sent_at, report.reported_at) == (None, None)


def test_secret_is_a_bearer_token_a_password_or_a_header():
    basic = base64.b64encode(b'postmark:the secret of sixteen').decode()
    for headers in (
        {'authorization': 'Bearer the secret of sixteen'},
        {'authorization': f'Basic {basic}'},
        {'x-webhook-secret': 'the secret of sixteen'},
    ):
        assert has_password(headers, 'the secret of sixteen')
        assert not has_password(headers, 'another secret, longer')
    assert not has_password({}, 'the secret of sixteen')
    assert not has_password({'authorization': 'Basic ////'}, 'the secret of sixteen')


def test_mailgun_signature_holds_for_a_quarter_of_an_hour():
    key, timestamp, token = 'a signing key', '1764504000', 'abc'
    digest = hmac.new(key.encode(), f'{timestamp}{token}'.encode(), sha256).hexdigest()
    signed = {'timestamp': timestamp, 'token': token, 'signature': digest}
    assert is_mailgun(signed, key, 1764504100.0)
    assert not is_mailgun(signed, key, 1764509000.0)
    assert not is_mailgun(signed | {'token': 'abd'}, key, 1764504100.0)
    assert not is_mailgun(signed, 'another key', 1764504100.0)
    assert not is_mailgun(signed | {'signature': 'ü'}, key, 1764504100.0)
    assert not is_mailgun(None, key)
    assert not is_mailgun({'timestamp': {}}, key)


def test_sendgrid_signature_is_over_the_time_and_the_body():
    private = ec.generate_private_key(ec.SECP256R1())
    key = base64.b64encode(
        private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()
    body, timestamp = b'[{"event":"bounce"}]', '1764504000'
    signature = private.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))
    headers = {
        'x-twilio-email-event-webhook-timestamp': timestamp,
        'x-twilio-email-event-webhook-signature': base64.b64encode(signature).decode(),
    }
    assert is_sendgrid(headers, body, key, 1764504100.0)
    assert not is_sendgrid(headers, body + b' ', key, 1764504100.0)
    assert not is_sendgrid(headers, body, key, 1764600000.0)
    assert not is_sendgrid({}, body, key)
    assert not is_sendgrid(headers, body, 'no key', 1764504100.0)


@pytest.fixture(scope='module')
def signer():
    """Sign as SNS does, with a certificate that the fetching answers with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'sns.amazonaws.com')])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )  # fmt: skip

    def sign(version='2', **changes):
        message = {
            'Type': 'Notification', 'MessageId': 'm', 'TopicArn': TOPIC,
            'Message': json.dumps(SES_BOUNCE), 'Timestamp': AT, 'SignatureVersion': version,
            'SigningCertURL': CERTIFICATE_URL,
        } | changes  # fmt: skip
        names = SIGNED[message['Type']]
        text = ''.join(f'{n}\n{message[n]}\n' for n in names if n in message).encode()
        digest = SHA1() if version == '1' else SHA256()
        signature = key.sign(text, padding.PKCS1v15(), digest)
        return message | {'Signature': base64.b64encode(signature).decode()}

    return sign, certificate.public_bytes(Encoding.PEM)


NOW = datetime(2026, 11, 30, 12, 1, tzinfo=UTC).timestamp()


@pytest.fixture
def sns(signer):
    fetched = []

    async def fetch(url):
        fetched.append(url)
        return signer[1]

    return SnsMessages((TOPIC,), fetch), fetched


@pytest.mark.parametrize('version', ['1', '2'])
async def test_sns_signature_of_both_versions_is_believed(signer, sns, version):
    messages, fetched = sns
    for _ in range(2):
        await messages.check(signer[0](version), NOW)
    assert fetched == [CERTIFICATE_URL]  # once


@pytest.mark.parametrize(
    'changes',
    [
        {'Message': '{}'},
        {'TopicArn': 'arn:aws:sns:eu-west-1:999:other'},
        {'SigningCertURL': 'https://sns.eu-west-1.amazonaws.com.evil.example/x.pem'},
        {'SigningCertURL': 'http://sns.eu-west-1.amazonaws.com/x.pem'},
        {'SigningCertURL': 'https://sns.eu-west-1.amazonaws.com/x.txt'},
        {'Timestamp': '2026-11-29T12:00:00.000Z'},
        {'Timestamp': 7},
        {'Type': 'Other'},
        {'SignatureVersion': '3'},
        {'Signature': 'AAAA'},
        {'Signature': 'ü'},
    ],
)
async def test_sns_message_that_was_changed_is_refused(signer, sns, changes):
    with pytest.raises(NotFromSnsError):
        await sns[0].check(signer[0]() | changes, NOW)


@pytest.mark.parametrize(
    'url',
    [
        'https://sns.eu-west-1.amazonaws.com\n/x.pem', 'https://sns.eu-west-1.amazonaws.com/ x.pem',
        'https://sns.eu-west-1.amazonaws.com\t/x.pem', 'https://sns.eu-west-1.amazonaws.com/é.pem',
        'https://evil.example\\@sns.eu-west-1.amazonaws.com/x.pem',
        'https://sns.eu-west-1.amazonaws.com@evil.example/x', 'https://evil.example/sns.x.pem',
        'https://sns.eu-west-1.amazonaws.com:8443/x', 'https://user@sns.eu-west-1.amazonaws.com/x',
        'https://127.0.0.1/x', 'file:///etc/passwd', 'https://[::1', None, 7, '',
        'https://sns.evil.amazonaws.com/x', 'https://s3.eu-west-1.amazonaws.com/sns.pem',
    ],
)  # fmt: skip
def test_nothing_is_fetched_from_anywhere_else(url):
    with pytest.raises(NotFromSnsError):
        check_url(url)


async def test_subscription_is_confirmed_at_the_address_that_was_signed(signer, sns):
    messages, fetched = sns
    url = 'https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t'
    message = signer[0](
        Type='SubscriptionConfirmation', SubscribeURL=url, Token='t', Message='confirm'
    )
    await messages.check(message, NOW)
    await messages.confirm(message)
    assert fetched[-1] == url
    with pytest.raises(NotFromSnsError):
        await messages.confirm(message | {'SubscribeURL': 'https://evil.example/'})
