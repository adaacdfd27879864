"""A message as given travels as it is, or is refused with the reason."""

import email
import email.policy
from datetime import UTC, datetime
from typing import Any

import pytest

from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Email, Extras, InvalidEmailError
from mail_outbox.raw_message import (
    MAX_HEAD_BYTES,
    MAX_LEADING_DOTS,
    own_senders,
    render_raw,
)
from mail_outbox.rendered import Rendered
from mail_outbox.shown_subject import SHOWN_SUBJECT_CHARS
from mail_outbox.validation import checked_row_sync

HEAD = (
    b'From: Shop <shop@example.com>\nTo: anna@example.com\nDate: x\nMessage-ID: <1@example.com>\n'
)


def as_given(
    data: bytes, recipient: str = '', max_bytes: int = 10_000_000, **extras: Any
) -> Rendered:
    row = Email(
        1,
        recipient,
        message_id='<made@example.com>',
        message_date=datetime(2026, 11, 5, 9, 30, tzinfo=UTC),
        extras=Extras(**extras),
    )
    return render_raw(row, data, Sender('default@example.com'), max_bytes)


@pytest.mark.parametrize('line_end', [b'\n', b'\r\n'])
def test_it_is_sent_byte_for_byte_with_crlf(line_end: bytes) -> None:
    data = HEAD + b'X-Odd:  two  spaces\n\tfolded\nDKIM-Signature: v=1; b=x\n\nbody\n.\n\n'
    done = as_given(data.replace(b'\n', line_end))
    assert done.message == data.replace(b'\n', b'\r\n')
    assert done.envelope == ('shop@example.com', ('anna@example.com',))
    assert (done.is_international, done.has_eight_bit) == (False, False)


def test_bcc_is_taken_out_and_gets_it() -> None:
    done = as_given(
        b'Bcc: one@example.com,\n two@example.com\n' + HEAD + b'Cc: c@example.com\n\nb',
    )  # fmt: skip
    assert done.envelope.recipients == (
        'anna@example.com', 'c@example.com', 'one@example.com', 'two@example.com',
    )  # fmt: skip
    assert b'one@' not in done.message
    assert b'two@' not in done.message


def test_row_says_to_whom_and_from_whom_if_it_says_so() -> None:
    done = as_given(
        HEAD + b'\nb', 'x@example.com', bcc='y@example.com', envelope_from='b@example.com'
    )
    assert done.envelope == ('b@example.com', ('x@example.com', 'y@example.com'))
    sent_by = b'Sender: robot@example.com\n' + HEAD
    assert as_given(sent_by).envelope.sender == 'robot@example.com'


def test_date_and_message_id_are_added_where_there_are_none() -> None:
    done = as_given(b'From: a@example.com\nTo: b@example.com\n\n')
    assert done.message.startswith(
        b'Date: Thu, 05 Nov 2026 09:30:00 +0000\r\nMessage-ID: <made@example.com>\r\nFrom: '
    )


def test_header_without_a_body_and_without_an_empty_line_is_sent() -> None:
    assert as_given(HEAD.rstrip()).message == HEAD.replace(b'\n', b'\r\n') + b'\r\n'


def test_eight_bits_are_noted_and_not_changed() -> None:
    done = as_given(HEAD + b'\n\xff\xfe')
    assert done.has_eight_bit
    assert done.in_seven_bits() is None
    international = as_given('Subject: Grüße\n'.encode() + HEAD)
    assert international.is_international
    assert not international.has_eight_bit


# Messages as they are found in spam traps and in the test suites of parsers, and what is right.
MALFORMED = {
    'nothing at all': (b'', 'has no From field'),
    'a body alone': (b'\nbody', 'has no From field'),
    'no From': (b'To: a@example.com\n\nb', 'has no From field'),
    'From of nobody': (b'From: \nTo: a@example.com\n\nb', 'From has no address'),
    'From that is no address': (b'From: nobody\nTo: a@example.com\n\nb', 'raw: from'),
    'two From': (b'From: a@example.com\nFrom: b@example.com\nTo: a@example.com\n\n', 'from twice'),
    'two To': (HEAD + b'to: c@example.com\n\n', 'to twice'),
    'several writers and no Sender': (
        b'From: a@example.com, b@example.com\nTo: c@d.ef\n\n',
        'Sender',
    ),
    'nobody to send to': (b'From: a@example.com\n\nb', 'nobody is to get it'),
    'a mailbox line first': (b'From anna Thu Nov  5 2026\n' + HEAD + b'\nb', 'is no header field'),
    'a continuation first': (b' folded\n' + HEAD + b'\nb', 'is no header field'),
    'text in the header': (HEAD + b'this is no field\n\nb', 'is no header field'),
    'a name with a space': (HEAD + b'Subject : x\n\nb', 'is no header field'),
    'a name beyond ASCII': (HEAD + 'Übung: x\n\nb'.encode(), 'is no header field'),
    'bytes of no charset in the header': (HEAD + b'Subject: \xff\n\nb', 'neither ASCII nor UTF-8'),
    'NUL in the body': (HEAD + b'\na\0b', 'NUL'),
    'NUL in the header': (HEAD + b'Subject: a\0b\n\n', 'NUL'),
    'a bare CR in the body': (HEAD + b'\na\rb', 'CR without its LF'),
    'a bare CR in the header': (HEAD + b'Subject: a\rBcc: x@example.com\n\n', 'CR without its LF'),
    'CR CR LF': (HEAD + b'\na\r\r\nb', 'CR without its LF'),
    'a long line': (HEAD + b'\n' + b'x' * 999, 'more than 998 bytes'),
    'a long field': (HEAD + b'Subject: ' + b'x' * 999 + b'\n\n', 'more than 998 bytes'),
    'a header without an end': (HEAD + b'X-A: b\n' * (MAX_HEAD_BYTES // 6), 'the header has more'),
    'one long line': (b'x' * (MAX_HEAD_BYTES + 5), 'the header has more'),
    'many dots': (HEAD + b'\n' + b'.\n' * (MAX_LEADING_DOTS + 2), 'begin with a dot'),
    'too large': (HEAD + b'\n' + b'x\n' * 6_000_000, 'at most 10000000'),
}


@pytest.mark.parametrize('name', MALFORMED)
def test_what_cannot_be_sent_is_refused_with_the_reason(name: str) -> None:
    data, why = MALFORMED[name]
    with pytest.raises(InvalidEmailError, match=why):
        as_given(data)


# What a parser calls a defect of the body is the sender's own affair.
DEFECTIVE = {
    'no boundary': b'Content-Type: multipart/mixed\n\n--x\n\na\n--x--\n',
    'boundary that never comes': b'Content-Type: multipart/mixed; boundary=y\n\n--x\n\na\n',
    'no closing boundary': b'Content-Type: multipart/mixed; boundary=x\n\n--x\n\na\n',
    'parts without an empty line': b'Content-Type: multipart/mixed; boundary=x\n\n--x\na\n--x--\n',
    'bad base64': b'Content-Transfer-Encoding: base64\n\n!!!\n',
    'base64 of a length that is none': b'Content-Transfer-Encoding: base64\n\nYWJjZ\n',
    'unknown encoding': b'Content-Transfer-Encoding: x-unheard\n\na\n',
    'encoded multipart': b'Content-Type: multipart/mixed; boundary=x\n'
    b'Content-Transfer-Encoding: base64\n\n--x\n\na\n--x--\n',
    'no type': b'Content-Type: \n\na\n',
    'type without a slash': b'Content-Type: text\n\na\n',
    'unknown charset': b'Content-Type: text/plain; charset=x-none\n\na\n',
    'nested too deep': b''.join(
        b'Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n' % (i, i) for i in range(200)
    ),
    'odd parameters': b'Content-Type: text/plain; =x; name*0*=a; name*2=c; ; "\n\na\n',
    'trailing garbage': b'Content-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x--\ngarbage\n',
}


@pytest.mark.parametrize('name', DEFECTIVE)
def test_defects_of_the_body_go_out_as_they_came(name: str) -> None:
    data = HEAD + DEFECTIVE[name]
    done = as_given(data)
    assert done.message == data.replace(b'\n', b'\r\n')
    ours, theirs = (email.message_from_bytes(d, policy=email.policy.default) for d in
                    (done.message.replace(b'\r\n', b'\n'), data))  # fmt: skip
    assert ours.items() == theirs.items()
    assert ours.as_bytes() == theirs.as_bytes()


def test_senders_that_have_to_be_allowed_are_those_of_the_header() -> None:
    row = Email(
        1,
        'x@example.com',
        raw_message=b'From: a@example.com, b@example.com\nSender: s@example.com\n\n',
        extras=Extras(envelope_from='e@example.com'),
    )
    assert [address for _, address in own_senders(row)] == [
        'a@example.com', 'b@example.com', 's@example.com', 'e@example.com',
    ]  # fmt: skip


def test_whoever_has_sent_a_message_on_has_to_be_allowed_each_time() -> None:
    resent = (
        b'Resent-From: b@example.com\nResent-Sender: c@example.com\n'
        b'resent-from:\n Dora <d@example.com>, b@example.com\nResent-To: x@example.com\n'
    )
    row = Email(1, 'x@example.com', raw_message=resent + b'From: a@example.com\n\n')
    assert [*own_senders(row)] == [
        ('raw: from', 'a@example.com'), ('raw: resent-from', 'b@example.com'),
        ('raw: resent-from', 'd@example.com'), ('raw: resent-from', 'b@example.com'),
        ('raw: resent-sender', 'c@example.com'),
    ]  # fmt: skip
    many = b''.join(b'Resent-From: a%d@example.com\n' % n for n in range(101))
    with pytest.raises(InvalidEmailError, match='raw: resent-from: 101 addresses'):
        checked_row_sync({'recipient': 'x@example.com', 'raw': many + b'From: a@example.com\n\nx'})
    with pytest.raises(InvalidEmailError, match=r'raw: resent-from: .* not an e-mail address'):
        checked_row_sync({'recipient': 'x@example.com', 'raw': b'Resent-From: no\n' + HEAD + b'\n'})


@pytest.mark.parametrize('name', ['from_address', 'sender_address', 'reply_to'])
def test_columns_that_would_change_its_header_are_refused(name: str) -> None:
    with pytest.raises(InvalidEmailError, match=f'^{name}: cannot be given with raw'):
        as_given(HEAD + b'\n', **{name: 'a@example.com'})


@pytest.mark.parametrize(
    ('field', 'shown'),
    [
        (b'Subject: Hello,\n Anna\n', 'Hello, Anna'),
        (b'Subject: =?utf-8?q?Gr=C3=BC?=\n =?utf-8?b?w59l?= =?latin1?q?_Zo=EB?=\n', 'Grüße Zoë'),
        ('Subject: Grüße\n'.encode(), 'Grüße'),
        (b'Subject: =?nope?q?a?= =?utf-8?q?=FF?= =?utf-8?b?*?=\n', '=?nope?q?a?= =?utf-8?q?=FF?= '),
        (b'Subject: =?utf-8?q?a=0D=0A=00b?=\n', 'a b'),
        (b'Subject: ' + b'x ' * 490 + b'\n', 'x ' * 127 + 'x'),
        (b'Subject: ' + b'=?utf-8?q?' * 90 + b'\n', '=?utf-8?q?' * 25 + '=?utf'),
        (b'', ''),
    ],
    ids=range(8),
)  # fmt: skip
def test_row_has_the_subject_as_readers_show_it(field: bytes, shown: str) -> None:
    row = checked_row_sync({'raw': HEAD + field + b'\nbody'})
    assert row['subject'] == shown[:SHOWN_SUBJECT_CHARS]
