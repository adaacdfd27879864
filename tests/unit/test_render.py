"""From an e-mail's values to the bytes that follow DATA: addresses, bodies."""

import pytest

from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Attachment, InvalidEmailError
from tests.unit.reader import content_of, read, rendered


def test_text_message_has_all_its_fields() -> None:
    message = read()
    assert dict(message.items()) == {
        'From': 'The Shop <shop@example.com>',
        'To': 'anna@example.com',
        'Subject': 'Hello',
        'Date': 'Thu, 05 Nov 2026 09:30:00 +0000',
        'Message-ID': '<1@example.com>',
        'Auto-Submitted': 'auto-generated',
        'MIME-Version': '1.0',
        'Content-Type': 'text/plain; charset="utf-8"',
        'Content-Transfer-Encoding': '7bit',
    }
    assert content_of(message, 'plain') == 'Hello, Anna.\n'


def test_envelope_has_bare_addresses_and_headers_have_names() -> None:
    recipient = 'Jörg <j@example.com>, "Doe, Anna" <anna@bücher.example>'
    done = rendered(recipient=recipient)
    assert done.envelope.sender == 'shop@example.com'
    assert done.envelope.recipients == ('j@example.com', 'anna@xn--bcher-kva.example')
    assert [address.display_name for address in read(recipient=recipient)['To'].addresses] == [
        'Jörg',
        'Doe, Anna',
    ]


def test_quoted_local_part_is_the_same_in_envelope_and_header() -> None:
    recipient = r'"anna \"b\""@example.com'
    assert rendered(recipient=recipient).envelope.recipients == (recipient,)
    assert read(recipient=recipient)['To'].addresses[0].addr_spec == recipient


@pytest.mark.parametrize('name', ['Müller & Söhne', 'Shop, Inc.', 'Shop "24"', 'N' * 200, None])
def test_sender_name_comes_back_as_it_was(name: str | None) -> None:
    address = read(sender=Sender('shop@example.com', name))['From'].addresses[0]
    assert (address.display_name, address.addr_spec) == (name or '', 'shop@example.com')


def test_hundred_recipients_with_names_stay_within_the_line_limit() -> None:
    names = [f'"Recipient  {"x" * (i % 30)}  {i}"' for i in range(100)]
    message = read(
        recipient=', '.join(f'{name} <r{i}@example.com>' for i, name in enumerate(names))
    )
    assert len(message['To'].addresses) == 100


@pytest.mark.parametrize(
    ('text', 'html', 'content_type'),
    [
        ('text', None, 'text/plain'),
        (None, '<p>html</p>', 'text/html'),
        ('text', '<p>html</p>', 'multipart/alternative'),
        ('', None, 'text/plain'),
        ('', '<p>html</p>', 'text/html'),
        (' \r\n', '<p>html</p>', 'text/html'),
        ('text', '', 'text/plain'),
        ('text', '\n\t ', 'text/plain'),
        ('', '', 'text/plain'),
        (None, '', 'text/html'),
    ],
)
def test_bodies_make_the_content_type(
    text: str | None, html: str | None, content_type: str
) -> None:
    message = read(body_text=text, body_html=html)
    assert message.get_content_type() == content_type
    if text and text.strip():
        assert content_of(message, 'plain') == f'{text}\n'
    if html and html.strip():
        assert content_of(message, 'html') == f'{html}\n'


@pytest.mark.parametrize('attached', [False, True])
def test_e_mail_without_a_body_is_refused(*, attached: bool) -> None:
    attachments = [Attachment('a.txt', 'text/plain', b'x')] if attached else []
    with pytest.raises(InvalidEmailError, match=r'^body: '):
        rendered(*attachments, body_text=None)


@pytest.mark.parametrize(
    'body', ['Grüße, Jörg\n', 'x' * 3000 + '\n', '.\n.a\n', 'From x\n', '\N{GRINNING FACE} ' * 500]
)
def test_body_comes_back_as_it_was(body: str) -> None:
    for message in (
        read(body_text=body),
        read(Attachment('a.bin', 'application/pdf', b'1'), body_text=body),
    ):
        assert content_of(message, 'plain') == body + ('' if body.endswith('\n') else '\n')


def test_same_row_renders_to_the_same_bytes() -> None:
    """So that a duplicate can be recognised."""
    assert rendered(body_html='<p>ü</p>') == rendered(body_html='<p>ü</p>')


# Columns.


@pytest.mark.parametrize('text', ['{', '', '[' * 100_000, 'NaN?'])
def test_headers_that_are_not_json_are_refused_by_their_name(text: str) -> None:
    with pytest.raises(InvalidEmailError, match=r'^headers: is not JSON'):
        rendered(headers=text)
