"""What the header says is what was asked for, and nothing more."""

import json
import random
from typing import Any

import pytest

from mail_outbox.envelope import Attachment, InvalidEmailError
from tests.unit.reader import TEXT, read, rendered


@pytest.mark.parametrize(
    'subject',
    ['Grüße aus Köln', 'é' * 988, 'x' * 988, 'a ' * 400 + 'b', '', '50 % off = fun', 'ü?='],
)
def test_subject_comes_back_as_it_was(subject: str) -> None:
    assert read(subject=subject)['Subject'] == subject


def test_missing_subject_is_empty() -> None:
    assert read(subject=None)['Subject'] == ''


@pytest.mark.parametrize('subject', ['a\r\nBcc: x@example.com', 'a\nb', 'a\0b', 'x' * 989])
def test_subject_that_cannot_be_a_header_is_refused(subject: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^subject: '):
        rendered(subject=subject)


@pytest.mark.parametrize('odd', ['\x0b', '\x0c', '\x1c', '\x85', '\u2028', '\u2029'])
@pytest.mark.parametrize('rest', ['a', 'ü'])
def test_subject_with_an_odd_separator_stays_one_field(odd: str, rest: str) -> None:
    assert 'Bcc' not in read(subject=f'{rest}{odd}Bcc: x@example.com')


ENCODED_LINE_ENDS = ['=0D=0A', '=0A', '=0D']


@pytest.mark.parametrize('line_end', ENCODED_LINE_ENDS)
@pytest.mark.parametrize('rest', ['a', 'ü'])
@pytest.mark.parametrize(
    'place', ['subject', 'template', 'header', 'name', 'filename', 'content type', 'cid']
)
def test_encoded_line_end_does_not_begin_another_field(
    place: str, rest: str, line_end: str
) -> None:
    """The email package decodes encoded words in what it is given, and does not look at what comes
    out.
    """
    value = f'{rest} =?utf-8?q?x{line_end}Bcc=3A_eve@example.com?='
    attachment = {'filename': 'a.pdf', 'content_type': 'application/pdf', 'cid': None}
    parts: dict[str, Any] = {}
    match place:
        case 'subject':
            parts = {'subject': value}
        case 'template':
            parts = {'template': TEXT, 'template_data': json.dumps({'name': value})}
        case 'header':
            parts = {'headers': json.dumps({'X-Tag': value})}
        case 'name':
            parts = {'recipient': f'{value} <anna@example.com>'}
        case 'content type':
            attachment['content_type'] = f'application/pdf; name="{value}"'
        case _:
            attachment[place] = value
    try:
        message = rendered(Attachment(data=b'x', **attachment), **parts).message
    except InvalidEmailError:
        return  # refused is as good as harmless
    head = message.partition(b'\r\n\r\n')[0]
    assert b'\nBcc' not in message.replace(b'\r', b'\n')
    assert b'Message-ID: <1@example.com>' in head
    assert b'MIME-Version' in head


def test_extra_headers_are_added() -> None:
    extra = {
        'Reply-To': 'Jörg <j@example.com>',
        'X-Tag': 'a b',
        'List-Unsubscribe': '<https://example.com/u>',
    }
    message = read(headers=json.dumps(extra))
    assert {name: str(message[name]) for name in extra} == extra


@pytest.mark.parametrize('name', ['Auto-Submitted', 'auto-submitted', 'AUTO-SUBMITTED'])
def test_auto_submitted_is_replaced_whatever_its_case(name: str) -> None:
    assert read(headers=json.dumps({name: 'no'})).get_all('Auto-Submitted') == ['no']


@pytest.mark.parametrize(
    'extra',
    [
        {'Subject': 'x'},
        {'X-Tag': 'a\r\nBcc: x@example.com'},
        {'X-Täg': 'a'},
        {'X-Tag': 1},
        {'Reply-To': 'a@example.com', 'reply-to': 'b@example.com'},
        {'X-Data': 'x' * 3000},
        {'X-Data': '\ud800'},
        ['X-Tag'],
        [['X-Tag']],
        [['X-Tag', 'a', 'b']],
        [['Reply-To', 'a@example.com'], ['reply-to', 'b@example.com']],
        [['List-ID', '<a.example.com>'], ['List-Id', '<a.example.com>']],
        'X-Tag',
    ],
    ids=lambda extra: str(extra)[:60].encode('ascii', 'replace').decode(),
)
def test_extra_headers_that_cannot_be_sent_are_refused(extra: object) -> None:
    with pytest.raises(InvalidEmailError):
        rendered(headers=json.dumps(extra))


def test_a_field_stands_as_often_and_in_the_order_in_which_it_is_given() -> None:
    pairs = [['X-Tag', 'b'], ['Comments', 'one'], ['x-tag', 'ä'], ['Comments', 'two']]
    message = read(headers=json.dumps(pairs))
    assert message.get_all('X-Tag') == ['b', 'ä']
    assert message.get_all('Comments') == ['one', 'two']
    assert message.keys()[-6:-2] == ['X-Tag', 'Comments', 'x-tag', 'Comments']


@pytest.mark.parametrize(
    ('name', 'argument'), [('From', 'from_address'), ('BCC', 'bcc'), ('Message-Id', 'message_id')]
)
def test_field_that_has_an_argument_of_its_own_is_refused_with_its_name(
    name: str, argument: str
) -> None:
    with pytest.raises(InvalidEmailError, match=f'but by {argument}$'):
        rendered(headers=json.dumps({name: 'a@example.com'}))


LETTERS = (
    'abXYZ01  _-.,;:()"\\\'=?%&*!/<>@[]{}|~^`+#$éüß日本'
    '\u202f\u3000\xa0\U0001f469\u200d\ufeff\u2028\x85'
)


@pytest.mark.parametrize('seed', range(25))
def test_random_message_is_read_back_as_it_was(seed: int) -> None:
    draw = random.Random(seed)

    def word(most: int) -> str:
        return (
            ' '.join(''.join(draw.choices(LETTERS, k=draw.randint(1, most))).split(' ')).strip(' ')
            or 'x'
        )

    for _ in range(20):
        name, subject, tag, text = (
            ' '.join(word(10).split()) or 'x',
            word(200),
            word(200),
            word(3000),
        )
        quoted = name.replace('\\', '\\\\').replace('"', '\\"')
        extra = {'X-Tag': tag, 'Reply-To': f'"{quoted}" <help@example.com>'}
        message = read(
            recipient=f'"{quoted}" <anna@example.com>, bob@example.com',
            subject=subject,
            body_text=text,
            body_html=f'<p>{text}',
            headers=json.dumps(extra),
        )
        assert [(a.display_name, a.addr_spec) for a in message['To'].addresses] == [
            (name, 'anna@example.com'),
            ('', 'bob@example.com'),
        ]
        assert [a.display_name for a in message['Reply-To'].addresses] == [name]
        assert (message['Subject'], message['X-Tag']) == (subject, tag)
        for kind, body in (('plain', text), ('html', f'<p>{text}')):
            part = message.get_body((kind,))
            assert part is not None
            assert part.get_payload(decode=True) == f'{body}\r\n'.encode()
