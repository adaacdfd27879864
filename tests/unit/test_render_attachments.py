"""Attachments arrive as they are, and the size limit holds."""

import pytest

from mail.envelope import Attachment, Content, InvalidEmailError
from mail.render import render
from tests.unit.reader import SENDER, an_email, content_of, read, rendered


def test_attachments_come_back_as_they_were() -> None:
    data = bytes(range(256)) * 10
    files = [
        Attachment('invoice.pdf', 'application/pdf', data),
        Attachment('Übersicht "1".csv', 'text/csv; charset=utf-8', 'ä;b\r\n.\r\n'.encode()),
        Attachment('logo.png', 'image/png', b'\x89PNG', cid='logo@shop'),
        Attachment('empty', 'application/octet-stream', b''),
    ]
    message = read(*files, body_html='<img src="cid:logo@shop">')
    assert message.get_content_type() == 'multipart/mixed'
    assert [name.lower() for name, _ in message.items()].count('mime-version') == 1
    found = list(message.iter_attachments())
    assert [part.get_filename() for part in found] == [file.filename for file in files]
    assert [part.get_payload(decode=True) for part in found] == [file.data for file in files]
    assert [part.get_content_type() for part in found[:2]] == ['application/pdf', 'text/csv']
    assert found[2]['Content-ID'] == '<logo@shop>'
    assert content_of(message, 'plain') == 'Hello, Anna.\n'


def test_attached_message_is_sent_as_a_plain_file() -> None:
    (part,) = read(Attachment('a.eml', 'message/rfc822', b'Subject: x\r\n\r\nx')).iter_attachments()
    assert (part.get_content_type(), part.get_payload(decode=True)) == (
        'application/octet-stream',
        b'Subject: x\r\n\r\nx',
    )


@pytest.mark.parametrize(
    'attachment',
    [
        Attachment('a', 'pdf', b''),
        Attachment('a', '/pdf', b''),
        Attachment('a', 'application/', b''),
        Attachment('a', '', b''),
        Attachment('a', 'application/pdf\r\nBcc: x', b''),
        Attachment('a\r\nb', 'application/pdf', b''),
        Attachment('a\0', 'application/pdf', b''),
        Attachment('a', 'application/pdf', b'', cid='x\ny'),
    ],
)
def test_attachment_that_cannot_be_sent_is_refused(attachment: Attachment) -> None:
    with pytest.raises(InvalidEmailError):
        rendered(attachment)


@pytest.mark.parametrize('attached', [False, True])
def test_message_over_the_limit_is_refused_with_both_numbers(*, attached: bool) -> None:
    content = Content(attachments=[Attachment('a', 'application/pdf', b'x' * 3000)] if attached else [])
    row = an_email(body_text='x\n' * 1000)
    size_bytes = len(render(row, content, SENDER, 10_000_000).message)
    assert render(row, content, SENDER, size_bytes)
    with pytest.raises(InvalidEmailError, match=rf'message: {size_bytes} bytes, at most {size_bytes - 1} are allowed'):
        render(row, content, SENDER, size_bytes - 1)
