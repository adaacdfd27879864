"""Addresses and headers before they become bytes."""

import pytest

from mail_outbox.envelope import (
    MAX_RECIPIENTS,
    InvalidEmailError,
    Recipient,
    ascii_address,
    parse_recipients,
)
from mail_outbox.envelope import refuse_control_characters as refuse
from mail_outbox.extra_headers import header_pairs


def shown(found: Recipient) -> str:
    return f'{found.name} <{found.address}>' if found.name else found.address


@pytest.mark.parametrize(
    ('recipient', 'expected'),
    [
        ('anna@example.com', ['anna@example.com']),
        ('  anna@example.com ', ['anna@example.com']),
        ('<anna@example.com>', ['anna@example.com']),
        ('Anna Doe <anna@example.com>', ['Anna Doe <anna@example.com>']),
        ('"Doe, Anna" <anna@example.com>', ['Doe, Anna <anna@example.com>']),
        ('Jörg Müller <jm@example.com>', ['Jörg Müller <jm@example.com>']),
        ('=?utf-8?q?J=C3=B6rg?= <j@example.com>', ['Jörg <j@example.com>']),
        ('anna@example.com, Bob <bob@example.com>', ['anna@example.com', 'Bob <bob@example.com>']),
        ('staff: anna@example.com, bob@example.com;', ['anna@example.com', 'bob@example.com']),
        ('anna+tag@example.com', ['anna+tag@example.com']),
        ("o'neil@example.com", ["o'neil@example.com"]),
        ('anna@localhost', ['anna@localhost']),
        ('anna@mail.local', ['anna@mail.local']),
        ('Anna@example.com', ['Anna@example.com']),
        ('anna@bücher.example', ['anna@xn--bcher-kva.example']),
        ('"anna b"@example.com', ['"anna b"@example.com']),
        ('"foo..bar"@example.jp', ['"foo..bar"@example.jp']),
        ('Foo <".foo."@example.jp>', ['Foo <".foo."@example.jp>']),
        ('"foo.bar"@example.jp', ['foo.bar@example.jp']),
        ('J. Doe <anna@example.com>', ['J. Doe <anna@example.com>']),
        ('anna@example.com (Anna, at home)', ['anna@example.com']),
        ('\u3000anna@example.com\xa0', ['anna@example.com']),
    ],
)
def test_recipients_are_read_and_normalised(recipient: str, expected: list[str]) -> None:
    assert [shown(found) for found in parse_recipients(recipient)] == expected


def test_address_that_comes_twice_is_kept_once_with_its_first_name() -> None:
    found = parse_recipients('Anna <anna@example.com>, bob@example.com, ANNA@Example.com')
    assert [shown(one) for one in found] == ['Anna <anna@example.com>', 'bob@example.com']


@pytest.mark.parametrize(
    'recipient',
    [
        '',
        ' ',
        ',',
        'anna',
        'anna@',
        '@example.com',
        'anna@example..com',
        'anna@.example.com',
        'anna@example.com.',
        'anna@-example.com',
        'anna..b@example.com',
        'anna b@example.com',
        'anna@exa mple.com',
        'anna@b@example.com',
        'anna@example.com bob@example.com',
        'anna@example.com; bob@example.com',
        'anna@example.com, , bob@example.com',
        'anna@example.com, bob',
        'Anna <anna@example.com',
        'Anna <>',
        'anna@[127.0.0.1]',
        'anna@' + 'x' * 64 + '.com',
        '\ud800@example.com',
        '=?utf-8?q?Anna=0D=0ABcc=3A_x?= <anna@example.com>',
        '=?utf-8?q?Anna=00?= <anna@example.com>',
        '"',
        '<',
        '(' * 3000 + ')' * 3000,
        'g:;',
        '""@example.com',
        'anna@' + 'bücher.' * 1000 + 'example',
    ],
)
def test_what_is_no_address_is_refused(recipient: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^recipient: '):
        parse_recipients(recipient)


@pytest.mark.parametrize('character', ['\r', '\n', '\0', '\r\n'])
@pytest.mark.parametrize(
    'place', ['{}anna@example.com', 'anna{}@example.com', 'Anna{} <anna@example.com>']
)
def test_recipient_with_a_control_character_is_refused(place: str, character: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^recipient: '):
        parse_recipients(place.format(character))


def test_as_many_recipients_as_every_relay_must_take_are_allowed() -> None:
    several = [f'r{i}@example.com' for i in range(MAX_RECIPIENTS + 1)]
    assert len(parse_recipients(','.join(several[:-1]))) == MAX_RECIPIENTS
    with pytest.raises(InvalidEmailError, match='101 addresses, at most 100'):
        parse_recipients(','.join(several))


@pytest.mark.parametrize(
    'recipient',
    [','.join(f'r{i}@example.com' for i in range(5000)), 'a' * 3_000_000],
    ids=['many addresses', 'one address'],
)
def test_endless_recipient_field_is_refused_without_reading_it_all(recipient: str) -> None:
    """Both the application's and the worker's loop would stand still meanwhile."""
    with pytest.raises(InvalidEmailError, match=r'^recipient: \d+ characters'):
        parse_recipients(recipient)


def test_error_quotes_only_the_beginning_of_an_address() -> None:
    with pytest.raises(InvalidEmailError) as raised:
        ascii_address('anna@' + 'x' * 5000)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize('name', ['Reply-To', 'List-Unsubscribe', 'X-Tag', 'x'])
def test_extra_header_passes(name: str) -> None:
    header_pairs({name: 'some value, ünd more'})


@pytest.mark.parametrize('name', ['', 'X Tag', 'X:Tag', 'X-Täg', 'X-Tag\r\nBcc', 'X\t', '\x7f'])
def test_header_with_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidEmailError, match='is not a header field name'):
        header_pairs({name: 'value'})


@pytest.mark.parametrize(
    'name', ['From', 'to', 'CC', 'Bcc', 'subject', 'Date', 'MESSAGE-ID', 'Content-Type', 'Sender']
)
def test_header_that_the_worker_makes_is_refused(name: str) -> None:
    with pytest.raises(InvalidEmailError, match='is made by the worker'):
        header_pairs({name: 'value'})


@pytest.mark.parametrize('value', ['a\r\nBcc: x@example.com', 'a\n', '\r', 'a\0'])
def test_header_value_with_a_control_character_is_refused(value: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^headers: X-Tag: must not contain'):
        header_pairs({'X-Tag': value})


@pytest.mark.parametrize('value', [None, 1, ['a'], {'a': 'b'}, b'a'])
def test_header_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidEmailError, match='must be text'):
        header_pairs({'X-Tag': value})


def test_refusal_names_the_field() -> None:
    refuse('subject', 'plain text\twith a tab')
    with pytest.raises(InvalidEmailError, match=r'^subject: must not contain CR, LF or NUL$'):
        refuse('subject', 'two\nlines')
