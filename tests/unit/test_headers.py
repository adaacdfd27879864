"""Header fields keep their structure, whatever they say, and nothing else gets into them."""

import email
import email.policy
import random
from email.headerregistry import AddressHeader
from typing import Any

import pytest

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.extra_headers import MAX_EXTRA_CHARS, STRUCTURED, extra_fields
from mail_outbox.headers import address, encoded_words, header, message_id_field


def raw(name: str, value: str) -> str:
    """Return a field's value as it travels, unfolded, having checked its lines."""
    field = dict(extra_fields({name: value}))[name]
    assert field.isascii()
    assert field.endswith(b'\r\n')
    assert max(map(len, field.split(b'\r\n'))) <= 998
    unfolded = field.decode().removesuffix('\r\n').replace('\r\n ', ' ')
    assert '\r' not in unfolded
    assert '\n' not in unfolded
    return unfolded.removeprefix(f'{name}: ')


def read(name: str, value: str) -> Any:
    return email.message_from_bytes(
        dict(extra_fields({name: value}))[name] + b'\r\n', policy=email.policy.default
    )[name]


GROESSE = encoded_words('Größe')
BUECHER = 'xn--bcher-kva.example'


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('List-Id', 'Größe <news.example.com>', f'{GROESSE} <news.example.com>'),
        ('List-ID', '"Größe" <news.example.com>', f'{GROESSE} <news.example.com>'),
        ('List-Id', 'Größe <news.bücher.example>', f'{GROESSE} <news.{BUECHER}>'),
        ('List-Id', '<news.bücher.example>', f'<news.{BUECHER}>'),
        ('List-Id', 'Größe', GROESSE),
        ('List-Id', 'News <news.example.com>', 'News <news.example.com>'),
        ('List-Unsubscribe', '<https://example.com/ü?x=é&y=%20>',
            '<https://example.com/%C3%BC?x=%C3%A9&y=%20>'),
        ('List-Unsubscribe', '<https://bücher.example/a>', f'<https://{BUECHER}/a>'),
        ('List-Unsubscribe', '<https://bücher.example:8443/ü>', f'<https://{BUECHER}:8443/%C3%BC>'),
        ('List-Unsubscribe', '<mailto:u@bücher.example?subject=ü>',
            f'<mailto:u@{BUECHER}?subject=%C3%BC>'),
        (
            'List-Unsubscribe',
            '<https://example.com/ü>,<mailto:u@example.com>',
            '<https://example.com/%C3%BC>, <mailto:u@example.com>',
        ),
        ('List-Unsubscribe', '<mailto:u@example.com>, <https://example.com/ü y>',
         '<mailto:u@example.com>, <https://example.com/%C3%BC%20y>'),
        ('List-Help', '<https://example.com> (Größe)', f'<https://example.com> ({GROESSE})'),
        ('List-Archive', 'https://example.com/ü', 'https://example.com/%C3%BC'),
        ('List-Post', 'NO', 'NO'),
        ('Archived-At', '<https://example.com/ü>', '<https://example.com/%C3%BC>'),
        ('Reply-To', 'Größe <a@example.com>, "B, ü" <b@example.com>',
         f'{GROESSE} <a@example.com>, {encoded_words("B, ü")} <b@example.com>'),
        ('Reply-To', 'a@bücher.example', f'a@{BUECHER}'),
        ('Reply-To', 'J. Doe <j@example.com>', '"J. Doe" <j@example.com>'),
        ('reply-to', '"foo..bar"@example.jp', '"foo..bar"@example.jp'),
        ('Reply-To', 'Anna (work) <a@example.com>', 'Anna (work) <a@example.com>'),
        ('Reply-To', 'nobody:;', 'nobody:;'),
        ('Errors-To', 'Größe <a@example.com>', f'{GROESSE} <a@example.com>'),
        ('Resent-To', 'Größe <a@example.com>', f'{GROESSE} <a@example.com>'),
        ('Disposition-Notification-To', 'ü <a@example.com>',
            f'{encoded_words("ü")} <a@example.com>'),
        ('References', '<a@bücher.example> <b@example.com>', f'<a@{BUECHER}> <b@example.com>'),
        ('In-Reply-To', 'Größe <b@example.com>', f'{GROESSE} <b@example.com>'),
        ('Keywords', 'Größe, b', f'{GROESSE}, b'),
        ('Content-Disposition', 'inline; filename="ü.txt"', "inline; filename*=utf-8''%C3%BC.txt"),
        ('Content-Location', 'https://example.com/ü', 'https://example.com/%C3%BC'),
        ('Content-Description', 'Größe <x>', encoded_words('Größe <x>')),
        ('X-Anything', 'Größe <x>, <y>', encoded_words('Größe <x>, <y>')),
        ('X-Anything', '<x>, "y"', '<x>, "y"'),
    ],
    ids=ascii,
)  # fmt: skip
def test_structured_field_keeps_its_structure(name: str, value: str, expected: str) -> None:
    assert raw(name, value) == expected


@pytest.mark.parametrize(
    'name', [name for name in STRUCTURED if STRUCTURED[name] is STRUCTURED['reply-to']]
)
def test_address_field_is_read_back_with_its_names_and_addresses(name: str) -> None:
    value = ', '.join(f'"Größe {i}, x" <r{i}@example.com>' for i in range(50))
    found = email.message_from_bytes(
        dict(extra_fields({name: value}))[name] + b'\r\n', policy=email.policy.default
    )[name]
    if isinstance(found, AddressHeader):
        assert not found.defects
        assert [(a.display_name, a.addr_spec) for a in found.addresses] == [
            (f'Größe {i}, x', f'r{i}@example.com') for i in range(50)
        ]


@pytest.mark.parametrize(
    'name', ['Reply-To', 'REPLY-TO', 'Errors-To', 'Return-Receipt-To', 'Resent-From']
)
@pytest.mark.parametrize(
    'value',
    ['', ' ', 'anna', 'a@example.com, bob', 'Anna <a@example.com', 'a@example.com b@example.com',
        '"', '(' * 2000, ',',
     'ü@example.com', 'Größe <anna>', '=?utf-8?q?a=0D=0ABcc=3A_x?= <a@example.com>', '<>',
     'g: a@example.com'],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_broken_address_list_is_refused_by_the_name_of_its_field(name: str, value: str) -> None:
    with pytest.raises(InvalidEmailError, match=rf'^headers: {name}: '):
        extra_fields({name: value})


@pytest.mark.parametrize('name', ['References', 'In-Reply-To', 'Content-ID'])
def test_message_id_beyond_ascii_is_refused(name: str) -> None:
    with pytest.raises(InvalidEmailError, match=rf'^headers: {name}: '):
        extra_fields({name: '<ü@example.com>'})


@pytest.mark.parametrize(
    'name', ['Auto-Submitted', 'Precedence', 'List-Unsubscribe-Post', 'Content-Language']
)
def test_word_of_a_fixed_set_is_ascii(name: str) -> None:
    with pytest.raises(InvalidEmailError, match=rf'^headers: {name}: must be ASCII'):
        extra_fields({name: 'ü'})


@pytest.mark.parametrize('name', sorted({*STRUCTURED, 'x-unknown'}))
@pytest.mark.parametrize('seed', range(3))
def test_no_field_gets_a_line_end_or_a_long_line_whatever_it_is_given(name: str, seed: int) -> None:
    draw = random.Random(f'{name} {seed}')
    pieces = ['<', '>', '"', '(', ')', '\\', ',', ';', ':', '@', ' ', '\t', '=',
        '=?utf-8?q?=0D=0A?=', 'ü', '日本',
              'a', 'x@y.de', '<a@b.de>', '\x0b', '\x85', '\u2028', 'https://ü.de/', 'b' * 300,
              '.']  # fmt: skip
    for _ in range(60):
        value = ''.join(draw.choices(pieces, k=draw.randint(0, 30)))
        try:
            value = raw(name, value)
        except InvalidEmailError as error:
            assert str(error).startswith(f'headers: {name}: ')  # noqa: PT017 - most values are refused, by name


@pytest.mark.parametrize('value', ['a\r\nBcc: x', 'a\n', '\r', '\0', '\ud800'])
@pytest.mark.parametrize(
    'name', ['Reply-To', 'List-Id', 'References', 'X-Tag', 'List-Unsubscribe', 'Precedence']
)
def test_control_character_is_refused_in_every_field(name: str, value: str) -> None:
    with pytest.raises(InvalidEmailError, match=rf'^headers: {name}: '):
        extra_fields({name: value})


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('Reply-To', ','.join(f'r{i}@example.com' for i in range(100))),
        ('List-Unsubscribe', ','.join(f'<https://example.com/{i}>' for i in range(100))),
        ('References', ''.join(f'<{i}@example.com>' for i in range(100))),
        ('X-Tag', 'x' * 990),
    ],
)
def test_long_field_is_folded_where_its_structure_allows(name: str, value: str) -> None:
    assert raw(name, value).replace(' ', '') == value


@pytest.mark.parametrize('value', ['x' * 999, 'a ' + 'x' * 999])
@pytest.mark.parametrize('name', ['X-Tag', 'List-Unsubscribe', 'References'])
def test_word_longer_than_a_line_is_refused(name: str, value: str) -> None:
    with pytest.raises(
        InvalidEmailError, match=rf'^headers: {name}: more than 998 characters without a space'
    ):
        extra_fields({name: value})


@pytest.mark.parametrize('value', ['\t' * 500, ' ' * 500, ' \t' * 500 + 'x'])
def test_long_white_space_makes_no_empty_line(value: str) -> None:
    assert all(line.strip() for line in header('X-Tag', value).split(b'\r\n')[:-1])


def test_all_extra_fields_together_have_a_limit() -> None:
    assert extra_fields({f'X-{i:05}': 'x' * 57 for i in range(1024)})
    with pytest.raises(
        InvalidEmailError, match=rf'^headers: {MAX_EXTRA_CHARS + 1} characters, at most'
    ):
        extra_fields({f'X-{i:05}': 'x' * 57 for i in range(1024)} | {'Y': ''})


# Message-ID.


@pytest.mark.parametrize(
    'message_id',
    ['<1@example.com>', '<a.b+c=d@x>', 'no-brackets@example.com', '<"a b"@example.com>'],
)
def test_message_id_is_the_rows(message_id: str) -> None:
    assert message_id_field(message_id) == f'Message-ID: {message_id}\r\n'.encode()


@pytest.mark.parametrize(
    'message_id',
    ['<1@x>\r\nBcc: eve@example.com', '<1@x>\n', '<\0@x>', '<ü@x>', '<\t@x>', 'x' * 981],
)
def test_message_id_that_would_be_more_than_one_is_refused(message_id: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^message_id: '):
        message_id_field(message_id)


def test_missing_message_id_makes_no_field() -> None:
    assert message_id_field('') == b''


# Names and encoded words.


@pytest.mark.parametrize(
    'name',
    [
        'Anna',
        'J. Doe',
        'Doe, Anna',
        'a "b" \\c',
        'Größe',
        '=?utf-8?q?x?=',
        'x' * 400,
        'a\tb',
        'two  spaces',
        ' x ',
    ],
)
def test_name_comes_back_as_it_was(name: str) -> None:
    field = header('To', address(name, 'a@example.com'))
    assert max(map(len, field.split(b'\r\n'))) <= 998
    (found,) = email.message_from_bytes(field + b'\r\n', policy=email.policy.default)[
        'To'
    ].addresses
    if len(name) < 40:  # Python 3.11 reads the space between two encoded words, which is none
        assert ' '.join(found.display_name.split()) == ' '.join(name.split())
    assert found.addr_spec == 'a@example.com'


@pytest.mark.parametrize(
    'text',
    ['ü', 'Größe 1', '日本語' * 100, '\U0001f600' * 50, 'a' * 500 + 'ü', ' ü ', '_?=ü', 'é' * 38],
)
def test_encoded_words_are_short_and_whole_and_come_back(text: str) -> None:
    words = encoded_words(text).split(' ')
    assert max(map(len, words)) <= 66
    assert (
        ''.join(str(email.header.make_header(email.header.decode_header(word))) for word in words)
        == text
    )
