"""Message bytes made by hand: what any reader gets back out of them."""

import email
import email.policy

import pytest

from mail_outbox.attachment_parts import attachment_part
from mail_outbox.envelope import Attachment
from mail_outbox.headers import header
from mail_outbox.mime import body_part, multipart

ODD_SEPARATORS = [
    '\x0b',
    '\x0c',
    '\x1c',
    '\x85',
    '\u2028',
]  # str.splitlines() splits at them, RFC 5322 does not


def parsed(message: bytes) -> email.message.EmailMessage:
    return email.message_from_bytes(message, policy=email.policy.default)


def content_of(message: email.message.EmailMessage) -> str:
    content: str = message.get_content()
    return content.replace('\r\n', '\n')


def lines_of(message: bytes) -> list[bytes]:
    """Return the lines, having checked what every relay insists on."""
    assert message.isascii()
    assert b'\r' not in message.replace(b'\r\n', b'')
    assert b'\n' not in message.replace(b'\r\n', b'')
    lines = message.split(b'\r\n')
    assert max(map(len, lines)) <= 998
    return lines


# Headers.


@pytest.mark.parametrize(
    'value',
    [
        'Hello',
        '',
        'word ' * 190 + 'end',
        'a' * 980,
        'double  spaces  ' * 50 + 'end',
        'Grüße aus Köln',
        'é' * 900,
        '日本語の件名' * 40,
        'smile \N{GRINNING FACE}',
        'tab\there',
        '100 % =?x?= "quoted" <b>',
    ],
)
def test_header_comes_back_as_it_was(value: str) -> None:
    message = header('Subject', value) + b'\r\n'
    lines_of(message)
    assert parsed(message)['Subject'] == value.rstrip()


def test_header_is_folded_at_spaces() -> None:
    lines = lines_of(header('Subject', 'word ' * 100 + 'end'))
    assert max(map(len, lines)) <= 78
    assert all(line.startswith(b' ') for line in lines[1:-1])


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        (
            'List-Unsubscribe',
            f'<https://example.com/unsubscribe?token={"a1" * 60}>, <mailto:u@example.com>',
        ),
        ('References', f'<{"a" * 70}@example.com> <{"b" * 90}@example.com>'),
        ('In-Reply-To', f'<{"a" * 120}@example.com>'),
    ],
)
def test_long_word_is_not_encoded(name: str, value: str) -> None:
    """Readers do not look for encoded words in these fields."""
    raw = header(name, value)
    assert b'=?' not in raw
    assert raw.replace(b'\r\n ', b' ').strip().decode() == f'{name}: {value}'


@pytest.mark.parametrize('spaces', [2, 60, 76, 77, 78, 79, 80, 200])
def test_header_with_many_spaces_has_no_blank_and_no_endless_line(spaces: int) -> None:
    words = [f'word{i}' for i in range(300)]
    lines = lines_of(header('X-Words', (' ' * spaces).join(['start', ' '.join(words), 'end'])))
    assert all(line.strip() for line in lines[:-1])


@pytest.mark.parametrize('odd', ODD_SEPARATORS)
@pytest.mark.parametrize('rest', ['ascii', 'ü'])
def test_header_value_cannot_begin_another_field(odd: str, rest: str) -> None:
    message = header('Subject', f'{rest}{odd}Bcc: anna@example.com') + b'\r\n'
    lines_of(message)
    assert 'Bcc' not in parsed(message)


# Bodies.

BODIES = [
    'Hello.\n',
    'no line end',
    '',
    '\n\n\n',
    'trailing space \nand tab\t\n',
    '.\n..\n.leading dot\n',
    'From anna\n',
    'x' * 998 + '\n',
    'x' * 999 + '\n',
    'x' * 5000 + '\n' + 'y' * 5000,
    'ü' * 2000,
    'Grüße,\nJörg \n',
    '\N{GRINNING FACE} = equals =3D\n',
    '<p style="x">ü</p>',
    '--boundary\n--\n',
    'form\x0cfeed and \x1b escape\n',
]


@pytest.mark.parametrize('text', BODIES)
@pytest.mark.parametrize('subtype', ['plain', 'html'])
def test_body_comes_back_as_it_was(text: str, subtype: str) -> None:
    part = body_part(text, subtype)
    lines_of(part)
    message = parsed(part)
    assert message.get_content_type() == f'text/{subtype}'
    assert content_of(message) == text + ('' if text.endswith('\n') else '\n')
    assert part.endswith(b'\r\n')


@pytest.mark.parametrize('line_end', ['\r\n', '\n', '\r'])
@pytest.mark.parametrize('word', ['ascii', 'ü'])
def test_every_line_end_becomes_crlf(line_end: str, word: str) -> None:
    part = body_part(f'{word}{line_end}{word}{line_end}', 'plain')
    lines_of(part)
    assert content_of(parsed(part)) == f'{word}\n{word}\n'


@pytest.mark.parametrize('word', ['one\u2028two\x85three\n', 'one\x0btwo\x0cthree\n'])
def test_other_separators_stay_in_their_line(word: str) -> None:
    part = body_part(word, 'plain')
    lines_of(part)
    assert parsed(part).get_payload(decode=True).decode().replace('\r\n', '\n') == word


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match='surrogate'):
        body_part('\ud800', 'plain')


@pytest.mark.parametrize('text', BODIES)
def test_alternative_keeps_its_parts_apart(text: str) -> None:
    message = multipart(
        'alternative', [body_part(text, 'plain'), body_part(f'<p>{text}</p>', 'html')], 'seed'
    )
    lines_of(message)
    plain, html = parsed(message).iter_parts()
    end = '' if text.endswith('\n') else '\n'
    assert (plain.get_content_type(), html.get_content_type()) == ('text/plain', 'text/html')
    assert content_of(plain) == text + end
    assert content_of(html) == f'<p>{text}</p>\n'
    assert not parsed(message).defects


def test_alternative_is_the_same_for_the_same_seed_only() -> None:
    parts = [body_part('a', 'plain'), body_part('b', 'html')]
    assert multipart('alternative', parts, '<1@example.com>') == multipart(
        'alternative', parts, '<1@example.com>'
    )
    assert multipart('alternative', parts, '<1@example.com>') != multipart(
        'alternative', parts, '<2@example.com>'
    )
    assert multipart('alternative', parts, '')
    assert multipart('alternative', parts, 'x' * 1000)


def test_boundary_stands_in_no_part_even_when_its_writer_knew_the_seed() -> None:
    known = multipart('mixed', [b'one'], 'seed').split(b'"')[1]
    message = multipart('mixed', [b'--' + known + b'--', b'two'], 'seed')
    boundary = message.split(b'"')[1]
    assert boundary != known
    assert message.split(b'--' + boundary)[1:] == [
        b'\r\n--' + known + b'--\r\n',
        b'\r\ntwo\r\n',
        b'--\r\n',
    ]


@pytest.mark.parametrize(
    'text', [*BODIES, 'a\r\r\n\r', '\r\n' * 20, 'ü\r\n' * 20, 'word \n' * 30, 'ü' * 300 + ' ']
)
@pytest.mark.parametrize('chunk', [1, 2, 3, 7, 64])
def test_body_that_is_encoded_in_chunks_is_the_same(
    text: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parsed(body_part(text, 'plain')).get_payload(decode=True)
    monkeypatch.setattr('mail_outbox.mime.CHUNK', chunk)
    part = body_part(text, 'plain')
    assert parsed(part).get_payload(decode=True) == whole
    if parsed(part)['Content-Transfer-Encoding'] == 'quoted-printable':
        assert max(map(len, lines_of(part))) <= 78  # a space at its end is one more =20


def test_large_part_has_no_dot_to_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop doubles them, when the relay waits for the body."""
    monkeypatch.setattr('mail_outbox.mime.CHUNK', 10)
    for text in ('.\n' * 20, '.\r\n' * 20, 'a\n.b\n\n..\n' * 5, '.ü\n' * 20):
        part = body_part(text, 'plain')
        assert b'\n.' not in part
        assert content_of(parsed(part)) == text.replace('\r\n', '\n')
    message = attachment_part(
        Attachment('a.eml', 'message/rfc822', b'Subject: x\r\n\r\n.\r\n' * 20)
    )
    assert b'\n.' not in message


def test_attachment_that_is_encoded_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [attachment_part(Attachment('a', None, bytes(range(256)) * n)) for n in range(4)]
    monkeypatch.setattr('mail_outbox.mime.BASE64_CHUNK_BYTES', 57)
    assert [
        attachment_part(Attachment('a', None, bytes(range(256)) * n)) for n in range(4)
    ] == whole
