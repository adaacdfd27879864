"""Links to unsubscribe: what they say, who gets them, and that nobody else can make one."""

import email
import email.policy
import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail.unsubscribe import LONGEST_TOKEN_CHARS, UnsubscribeLinks, Unsubscription
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Content, Email, Extras
from mail_outbox.render import render
from settings import Settings
from tests.unit.test_signing import SIGNING, verified

BASE = 'https://mail.example.com'
LINKS = UnsubscribeLinks(BASE, ('a secret of sixteen',), {'news': 'Our news'})
SENDER = Sender('shop@example.com')
NEWS = Email(7, 'anna@example.net', 'Hello', 'Hello.', email_type='news', message_id='<7@x>')


def sent(wanted: Email, links: UnsubscribeLinks = LINKS):
    return links.put_on(wanted, render(wanted, Content(), SENDER, 10_000_000))


def fields_of(message: bytes):
    read = email.message_from_bytes(message, policy=email.policy.default)
    return read['List-Unsubscribe'], read['List-Unsubscribe-Post']


def token_of(message: bytes) -> str:
    link, post = fields_of(message)
    assert post == 'List-Unsubscribe=One-Click'
    assert link.startswith(f'<{BASE}/unsubscribe/')
    assert link.endswith('>')
    return link.removeprefix(f'<{BASE}/unsubscribe/')[:-1]


def test_mail_of_a_listed_type_to_one_has_both_fields_and_they_name_address_type_and_id():
    message = sent(NEWS).message
    assert LINKS.read(token_of(message)) == Unsubscription(7, 'news', 'anna@example.net')
    assert LINKS.url_of(NEWS) == f'{BASE}/unsubscribe/{token_of(message)}'
    assert email.message_from_bytes(message).get_payload() == 'Hello.\r\n'


@pytest.mark.parametrize(
    'other',
    [
        NEWS._replace(email_type='receipt'),
        NEWS._replace(email_type=None),
        NEWS._replace(recipient='anna@example.net, bob@example.net'),
        NEWS._replace(extras=Extras(bcc='archive@example.com')),
    ],
    ids=['other type', 'no type', 'two', 'one and bcc'],
)
def test_mail_of_another_type_or_to_several_in_one_copy_has_none(other):
    assert fields_of(sent(other).message) == (None, None)
    assert LINKS.url_of(other) is None


def test_each_of_several_copies_has_the_link_of_its_recipient():
    rendered = sent(
        NEWS._replace(
            recipient='anna@example.net, Bob <bob@example.net>', extras=Extras(one_copy_each=True)
        )
    )
    for address in ('anna@example.net', 'bob@example.net'):
        message = rendered.part((address,)).message
        assert LINKS.read(token_of(message)).address == address
        assert email.message_from_bytes(message).get_payload() == 'Hello.\r\n'
    assert LINKS.read(token_of(rendered.message)).address == 'anna@example.net'


def test_fields_of_the_applications_own_stay_alone():
    for own in ({'List-Unsubscribe': '<https://shop.example.com/u>'},
                {'list-unsubscribe': '<mailto:u@example.com>'}):  # fmt: skip
        message = sent(NEWS._replace(headers=json.dumps(own))).message
        assert message.lower().count(b'list-unsubscribe') == 1


RAW = b'From: shop@example.com\nTo: anna@example.net\n'


def test_message_as_given_has_them_unless_it_has_its_own_or_is_signed():
    plain = NEWS._replace(subject=None, body_text=None, raw_message=RAW + b'\nlist-unsubscribe: x')
    assert LINKS.read(token_of(sent(plain).message)).address == 'anna@example.net'
    for field in (b'List-Unsubscribe: <https://x.example>', b'DKIM-Signature: v=1'):
        given = plain._replace(raw_message=RAW + field + b'\n\nHello\n')
        assert fields_of(sent(given).message)[1] is None


def test_address_beyond_ascii_and_8_bits_in_the_body_are_carried_whole():
    wanted = NEWS._replace(recipient='jürgen@example.net', body_text='Grüße\n')
    rendered = sent(wanted)
    assert LINKS.read(token_of(rendered.message)).address == 'jürgen@example.net'
    seven = rendered.in_seven_bits()
    read = email.message_from_bytes(seven.message, policy=email.policy.default)
    assert read.get_content().strip() == 'Grüße'


def test_both_fields_are_signed_by_dkim_and_what_is_changed_or_added_breaks_it():
    copies = NEWS._replace(
        recipient='anna@example.net, bob@example.net', extras=Extras(one_copy_each=True)
    )
    signed = SIGNING.sign(sent(NEWS)).message
    each = SIGNING.sign(sent(copies))
    for message in (signed, *(each.part((to,)).message for to in each.envelope.recipients)):
        assert token_of(message)
        assert verified(message) == [True, True]
    token = token_of(signed)
    others = b'List-Unsubscribe: <https://evil.example>\r\n'
    for changed in (
        signed.replace(token.encode(), b'x' + token[1:].encode()),
        signed.replace(b'One-Click', b'One-Cluck'),
        others + signed,
    ):
        assert changed != signed
        assert verified(changed) == [False, False]


def test_every_secret_is_known_and_the_first_one_signs():
    newer = UnsubscribeLinks(BASE, ('the second secret ..', 'a secret of sixteen'), LINKS.types)
    old, new = token_of(sent(NEWS).message), token_of(sent(NEWS, newer).message)
    assert newer.read(old) == newer.read(new) == LINKS.read(old)
    assert LINKS.read(new) is None


def test_any_change_of_a_token_makes_it_nobodys():
    token = token_of(sent(NEWS).message)
    for place in range(len(token)):
        other = 'A' if token[place] != 'A' else 'B'
        assert LINKS.read(token[:place] + other + token[place + 1 :]) is None
    for changed in (token[:-1], f'{token}A', f'{token}=', f'{token}==', f'{token}\n', ''):
        assert LINKS.read(changed) is None


@given(st.text(max_size=LONGEST_TOKEN_CHARS + 10) | st.binary(max_size=300).map(
    lambda data: urlsafe_b64encode(data).decode().rstrip('=')))  # fmt: skip
def test_whatever_somebody_makes_up_is_nobodys(token):
    assert LINKS.read(token) is None


def test_link_that_would_be_too_long_for_a_header_is_left_out_and_the_mail_goes():
    long = f'{"a" * 64}@{".".join(["b" * 60] * 3)}.example'
    words = 'ü' * 150
    links = UnsubscribeLinks(BASE, LINKS.secrets, {words: words})
    wanted = NEWS._replace(recipient=long, email_type=words)
    assert fields_of(sent(wanted, links).message) == (None, None)
    assert max(map(len, sent(NEWS._replace(recipient=long)).message.split(b'\r\n'))) < 998


@pytest.mark.parametrize(
    ('given', 'why'),
    [
        ({'types': 'news'}, 'UNSUBSCRIBE_TYPES needs'),
        ({'types': 'news', 'url': BASE}, 'UNSUBSCRIBE_TYPES needs'),
        ({'url': 'http://mail.example.com'}, 'must begin with https://'),
        ({'url': 'mail.example.com'}, 'must be such as'),
        ({'url': 'https://mail.example.com/?a=b'}, 'must be such as'),
        ({'url': 'https://a b.example'}, 'must be such as'),
        ({'url': 'https://u:p@mail.example.com'}, 'must be such as'),
        ({'url': 'https://[mail'}, 'must be such as'),
        ({'secret': 'too short'}, 'must have 16 characters'),
        ({'secret': ' , '}, 'must have 16 characters'),
        ({'types': '*', 'url': BASE, 'secret': 's' * 16}, 'must name each type'),
        ({'types': '=x', 'url': BASE, 'secret': 's' * 16}, 'a type has 1 to 100'),
        ({'types': 'a=x,b, a=y', 'url': BASE, 'secret': 's' * 16}, 'types, each once'),
    ],
)
def test_wrong_setting_is_refused_and_says_why(given, why):
    with pytest.raises(ValueError, match=why):
        Settings(**{f'unsubscribe_{name}': value for name, value in given.items()})


def test_settings_make_links_with_the_words_that_people_read():
    links = Settings(
        unsubscribe_url=f'{BASE}/mail/', unsubscribe_secret='s' * 16 + ', ' + 't' * 16,
        unsubscribe_types='news=Our news, digest',
    ).unsubscribe_links  # fmt: skip
    assert links.base_url == f'{BASE}/mail'
    assert links.secrets == ('s' * 16, 't' * 16)
    assert links.types == {'news': 'Our news', 'digest': 'digest'}
    assert 's' * 16 not in repr(links)
    assert Settings().unsubscribe_links is None
    only_known = Settings(unsubscribe_secret='s' * 16).unsubscribe_links
    assert only_known.types == {}
