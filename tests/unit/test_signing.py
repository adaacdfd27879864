"""DKIM signatures, verified by dkimpy, which nobody here wrote."""

import asyncio
import base64
import hashlib
import json
import subprocess
import time
from datetime import UTC, datetime

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration.dkim_keys import read_signing
from delivery.handing_over import HandingOver
from delivery.tunables import Tunables
from mail.relay.transaction import Transaction
from mail.safety import Safety
from mail.signing.canonical import body_hash
from mail.signing.dkim import Signing
from mail.signing.keys import Algorithm, read_key
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Attachment, Content, Email, Extras
from mail_outbox.render import render
from settings import Settings
from tests.dkim_keys import new_key

RSA, ED = new_key(Algorithm.RSA), new_key(Algorithm.ED25519)
KEYS = (read_key(RSA, 'example.com', 'r1'), read_key(ED, 'example.com', 'e1'))
SIGNING = Signing(KEYS)
SENDER = Sender('shop@example.com', 'Das Geschäft')
EMAIL = Email(
    1,
    'anna@example.net',
    subject='Grüße',
    body_text='Guten Tag  \n\n.\n..dots\n\tTab\n\n\n',
    message_id='<1@example.com>',
    message_date=datetime(2026, 11, 30, tzinfo=UTC),
)


def rendered(email=EMAIL, attachments=()):
    return render(email, Content(None, attachments), SENDER, 30_000_000)


def on_the_wire(message):
    """What a receiver has of it: stuffed, sent, and read back."""

    async def travel():
        return Transaction('eu', message, None).body()

    body = asyncio.run(travel())
    assert body.endswith(b'\r\n.\r\n')
    lines = body[:-3].split(b'\r\n')
    return b'\r\n'.join(line[1:] if line.startswith(b'.') else line for line in lines)


def verified(message, signing=SIGNING):
    """Ask dkimpy for each signature; there are as many as keys."""
    records = {f'{key.record_name}.': key.record_text for key in signing.keys}

    def txt(name, timeout=5):
        return records.get(name.decode() if isinstance(name, bytes) else name, '').encode()

    count = message.split(b'\r\n\r\n')[0].lower().count(b'dkim-signature:')
    return [verifies(dkim.DKIM(message), index, txt) for index in range(count)]


def verifies(verifier, index, txt):
    try:
        return verifier.verify(index, dnsfunc=txt)
    except dkim.ValidationError:  # of the body's hash
        return False


def test_signatures_by_rsa_and_ed25519_hold_on_the_wire():
    wire = on_the_wire(SIGNING.sign(rendered()))
    assert verified(wire) == [True, True]
    assert b'a=rsa-sha256' in wire
    assert b'a=ed25519-sha256' in wire
    assert max(map(len, wire.split(b'\r\n'))) <= 998


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        (b'To: anna', b'To: eve'),
        (b'Guten Tag', b'Guten Rat'),
        (b'\r\nFrom:', b'\r\nFrom: eve@example.org\r\nFrom:'),
        (b'\r\nFrom:', b'\r\nList-Unsubscribe: <https://eve.example/>\r\nFrom:'),
        (b'\r\nFrom:', b'\r\nReply-To: eve@example.org\r\nFrom:'),
        (b'\r\nFrom:', b'\r\nSubject: Hello\r\nFrom:'),
        (b'\r\nDate:', b'\r\nDate: Mon, 1 Jan 2001 00:00:00 +0000\r\nDate:'),
    ],
)
def test_what_is_changed_or_added_breaks_every_signature(before, after):
    wire = on_the_wire(SIGNING.sign(rendered()))
    assert before in wire
    assert verified(wire.replace(before, after, 1)) == [False, False]


def test_white_space_that_relays_change_breaks_none():
    wire = on_the_wire(SIGNING.sign(rendered()))
    changed = wire.replace(b'\r\nTo: anna', b'\r\nTO:\r\n   anna') + b'\r\n\r\n'
    assert changed != wire
    assert verified(changed) == [True, True]


def test_each_copy_has_signatures_of_its_own():
    email = EMAIL._replace(
        recipient='anna@example.net, bert@example.org', extras=Extras(one_copy_each=True)
    )
    signed = SIGNING.sign(rendered(email))
    for recipient in ('anna@example.net', 'bert@example.org'):
        wire = on_the_wire(signed.part((recipient,)))
        assert verified(wire) == [True, True]
        assert f'To: {recipient}'.encode() in wire


def test_ascii_variant_has_signatures_of_its_own():
    email = EMAIL._replace(recipient='anna@example.net, jörg@example.org')
    signed = SIGNING.sign(rendered(email))
    heads = [on_the_wire(signed.part(group)) for group in signed.alike(signed.envelope.recipients)]
    assert heads[0] != heads[1]
    assert [verified(wire) for wire in heads] == [[True, True]] * 2


def test_what_a_relay_without_8bitmime_gets_was_signed():
    email = EMAIL._replace(body_html='<p>Grüße</p>', body_text='Grüße')
    assert rendered(email).has_eight_bit
    signed = SIGNING.sign(rendered(email))
    assert not signed.has_eight_bit
    assert signed.message.isascii()
    assert verified(on_the_wire(signed)) == [True, True]


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('body', ['', 'x', 'x\n\n\n', '.\n', ' \t\n'])
def test_raw_message_is_signed_as_it_travels(end, body):
    raw = f'From: Anna <anna@example.com>\nTo: b@example.net\nSubject: a\n  b\nX: y\n\n{body}'
    email = EMAIL._replace(raw_message=raw.replace('\n', end).encode())
    assert verified(on_the_wire(SIGNING.sign(rendered(email)))) == [True, True]


def test_raw_message_that_is_signed_keeps_its_signature():
    raw = on_the_wire(SIGNING.sign(rendered()))
    again = on_the_wire(SIGNING.sign(rendered(EMAIL._replace(raw_message=raw))))
    assert verified(again) == [True] * 4


@pytest.mark.parametrize('folded', ['From:\r\n anna@example.com', 'FROM: <anna@EXAMPLE.com>'])
def test_from_is_found_however_it_is_written(folded):
    raw = f'{folded}\r\nSubject: a\r\nTo: b@example.net\r\n\r\nx'.encode()
    assert verified(on_the_wire(SIGNING.sign(rendered(EMAIL._replace(raw_message=raw))))) == [
        True,
        True,
    ]


def test_only_mail_of_the_domain_and_of_those_below_it_is_signed():
    assert SIGNING.keys_for('example.com') == list(KEYS)
    assert SIGNING.keys_for('News.Example.com') == list(KEYS)
    for other in ('example.org', 'notexample.com', 'com', ''):
        assert SIGNING.keys_for(other) == ()
    own = read_key(ED, 'news.example.com', 'n')
    assert Signing([*KEYS, own]).keys_for('a.news.example.com') == [own]
    foreign = rendered(EMAIL._replace(extras=Extras(from_address='a@example.org')))
    assert SIGNING.sign(foreign) is foreign


def test_fields_a_relay_writes_anew_can_be_left_out():
    signing = Signing([read_key(RSA, 'example.com', 's', frozenset({'date', 'message-id'}))])
    wire = on_the_wire(signing.sign(rendered()))
    changed = wire.replace(b'<1@example.com>', b'<ses@amazonses.com>')
    assert changed != wire
    assert verified(changed, signing) == [True]
    assert verified(changed.replace(b'To: anna', b'To: eve'), signing) == [False]


@given(st.text(st.sampled_from(' \t\r\nab.'), max_size=200), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_body_hash_is_that_of_the_whole_however_it_is_cut(text, chunk):
    body = text.replace('\r', '').replace('\n', '\r\n').encode()
    body += b'' if body.endswith(b'\r\n') else b'\r\n'  # as it travels
    relaxed = dkim.canonicalization.Relaxed.canonicalize_body(body)
    want = base64.b64encode(hashlib.sha256(relaxed).digest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mail.signing.canonical.CHUNK_BYTES', chunk)
        assert body_hash(b'H: v\r\n\r\n' + body, 8) == want


# dkimpy takes a form feed for white space as well, which RFC 6376 does not.
FIELD = st.text(st.characters(codec='utf-8', exclude_categories=['Cc', 'Cs']), max_size=60)


@given(subject=FIELD, text=st.text(max_size=300), name=FIELD)
@settings(max_examples=100, deadline=None)
def test_whatever_can_be_rendered_is_signed_so_that_it_verifies(subject, text, name):
    email = EMAIL._replace(subject=subject, body_text=text, headers=json.dumps({'X-Name': name}))
    try:
        message = rendered(email)
    except ValueError:
        return
    assert verified(on_the_wire(SIGNING.sign(message))) == [True, True]


async def test_large_message_is_signed_without_holding_the_loop():
    message = await asyncio.to_thread(
        rendered,
        EMAIL._replace(body_text='a  b\t c \n' * 900_000),
        [Attachment('a.bin', None, bytes(10_000_000))],
    )
    assert len(message.message) > 20_000_000
    signer = HandingOver(Tunables([], SENDER, max_emails=1, signing=SIGNING), Safety())
    longest, done = 0.0, asyncio.Event()

    async def watch():
        nonlocal longest
        while not done.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    signed = await signer.sign(message)
    done.set()
    await watching
    assert longest < 0.25  # one call over the whole takes 0.5 s on two quiet cores
    assert signed.message.endswith(message.message)


# Keys.


def entry(tmp_path, pem, mode=0o600, **parts):
    path = tmp_path / 'key.pem'
    path.write_bytes(pem)
    path.chmod(mode)
    return {'domain': 'example.com', 'selector': 's1', 'key_file': str(path)} | parts


def refusal(*entries):
    with pytest.raises(ValueError, match=r'.') as raised:
        read_signing(Settings(dkim_keys=json.dumps(entries)))
    return str(raised.value)


def pem_of(key, lock=None):
    how = NoEncryption() if lock is None else BestAvailableEncryption(lock)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def test_no_key_no_signature():
    assert read_signing(Settings()) is None


def test_keys_come_from_their_files(tmp_path):
    made = read_signing(
        Settings(dkim_keys=json.dumps([entry(tmp_path, RSA, domain='EXAMPLE.com')]))
    )
    assert verified(on_the_wire(made.sign(rendered())), made) == [True]
    assert made.keys[0].record_name == 's1._domainkey.example.com'


def test_key_that_openssl_made_signs(tmp_path):
    for number, command in enumerate((
        ['genrsa', '-traditional', '1024'],
        ['genpkey', '-algorithm', 'ed25519'],
        ['genpkey', '-algorithm', 'rsa', '-pkeyopt', 'rsa_keygen_bits:2048'],
    )):  # fmt: skip
        pem = subprocess.run(['openssl', *command], capture_output=True, check=True).stdout
        made = Signing([read_key(pem, 'example.com', f's{number}')])
        assert verified(on_the_wire(made.sign(rendered())), made) == [True]


@pytest.mark.parametrize(
    ('pem', 'words'),
    [
        (b'', 'no private key in PEM form'),
        (b'\0' * 100_000, 'no private key in PEM form'),
        (RSA[:300], 'no private key in PEM form'),
        (pem_of(rsa.generate_private_key(65537, 2048), b'secret'), 'locked by a password'),
        (pem_of(dsa.generate_private_key(1024)), 'neither RSA nor Ed25519'),
    ],
)
def test_file_without_a_usable_key_is_refused_in_one_line(tmp_path, pem, words):
    said = refusal(entry(tmp_path, pem))
    assert words in said
    assert 'example.com (s1)' in said
    assert '\n' not in said


def test_weak_key_is_refused(tmp_path):
    pem = subprocess.run(['openssl', 'genrsa', '512'], capture_output=True, check=False).stdout
    assert '512 bits' in refusal(entry(tmp_path, pem))


@pytest.mark.parametrize('mode', [0o644, 0o620, 0o602])
def test_key_that_others_can_get_at_is_refused(tmp_path, mode):
    assert 'chmod 0600' in refusal(entry(tmp_path, RSA, mode))


def test_file_that_is_gone_or_no_file_is_refused(tmp_path):
    gone = entry(tmp_path, RSA, key_file=str(tmp_path / 'gone.pem'))
    assert 'No such file' in refusal(gone)
    assert 'directory' in refusal(entry(tmp_path, RSA, key_file=str(tmp_path)))


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        ({'domain': 'not a domain'}, 'entry 1: domain'),
        ({'selector': 'a..b'}, 'entry 1: selector'),
        ({'selector': '-'}, 'entry 1: selector'),
        ({'key_file': ''}, 'entry 1: key_file'),
        ({'keyfile': 'x'}, 'no such key; there are domain, selector'),
    ],
)
def test_wrong_entry_is_named(tmp_path, parts, words):
    assert words in refusal(entry(tmp_path, RSA) | parts)


def test_two_keys_with_one_selector_are_refused(tmp_path):
    said = refusal(entry(tmp_path, RSA), entry(tmp_path, RSA, selector='S1'))
    assert 'twice' in said
