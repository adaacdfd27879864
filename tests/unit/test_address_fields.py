"""Who an e-mail is from and to: header and envelope are told apart."""

import json

import pytest

from mail_outbox.envelope import Extras, InvalidEmailError
from tests.unit.reader import read, rendered


def with_extras(**values: str) -> dict[str, Extras]:
    return {'extras': Extras(**values)}


def test_from_reply_to_and_sender_stand_in_their_fields() -> None:
    message = read(
        **with_extras(
            from_address='Büro <billing@example.com>',
            sender_address='robot@example.com',
            reply_to='help@example.com, "Doe, J." <j@bücher.example>',
        )
    )
    assert str(message['From']) == 'Büro <billing@example.com>'
    assert str(message['Sender']) == 'robot@example.com'
    assert [a.addr_spec for a in message['Reply-To'].addresses] == [
        'help@example.com',
        'j@xn--bcher-kva.example',
    ]


@pytest.mark.parametrize(
    ('values', 'return_path'),
    [
        ({}, 'shop@example.com'),
        ({'from_address': 'Anna <a@example.com>'}, 'a@example.com'),
        ({'from_address': 'a@example.com', 'sender_address': 'b@example.com'}, 'b@example.com'),
        ({'from_address': 'a@example.com', 'envelope_from': 'c@example.com'}, 'c@example.com'),
        ({'envelope_from': '<>'}, ''),
        ({'envelope_from': '', 'from_address': '', 'cc': ''}, 'shop@example.com'),
    ],
)
def test_mail_from_is_what_is_named_for_it_else_the_sender_else_from(
    values: dict[str, str], return_path: str
) -> None:
    assert rendered(**with_extras(**values)).envelope.sender == return_path


def test_bcc_is_in_the_envelope_and_in_no_header() -> None:
    parts = {
        'recipient': 'anna@example.com',
        **with_extras(cc='Cora <cora@example.com>', bcc='secret@example.com'),
    }
    done = rendered(**parts)
    assert done.envelope.recipients == (
        'anna@example.com',
        'cora@example.com',
        'secret@example.com',
    )
    assert b'secret' not in done.message
    message = read(**parts)
    assert (str(message['To']), str(message['Cc'])) == (
        'anna@example.com',
        'Cora <cora@example.com>',
    )
    assert 'Bcc' not in message


def test_nobody_gets_an_e_mail_twice() -> None:
    done = rendered(
        recipient='a@example.com',
        **with_extras(cc='A@example.com, b@example.com', bcc='b@EXAMPLE.com'),
    )
    assert done.envelope.recipients == ('a@example.com', 'b@example.com')


@pytest.mark.parametrize(
    ('values', 'why'),
    [
        ({'from_address': 'a@example.com, b@example.com'}, 'from_address: 2 addresses'),
        ({'from_address': 'nobody'}, 'from_address: '),
        ({'sender_address': 'a@example.com\r\nBcc: x@example.com'}, 'sender_address: '),
        ({'envelope_from': 'a@example.com> SIZE=1'}, 'envelope_from: '),
        ({'cc': 'nobody'}, 'cc: '),
        ({'bcc': ' '}, 'bcc: '),
        ({'reply_to': 'x' * 40_000}, 'reply_to: '),
        ({'bcc': ', '.join(f'r{i}@example.com' for i in range(100))}, '101 addresses'),
    ],
)
def test_address_that_is_wrong_is_refused_by_its_fields_name(
    values: dict[str, str], why: str
) -> None:
    with pytest.raises(InvalidEmailError, match=why):
        rendered(**with_extras(**values))


def test_reply_to_is_given_once() -> None:
    with pytest.raises(InvalidEmailError, match=r'^reply_to: headers has'):
        rendered(
            headers=json.dumps({'reply-to': 'b@example.com'}),
            **with_extras(reply_to='a@example.com'),
        )
