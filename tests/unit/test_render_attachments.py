"""Attachments arrive as they are, and the size limit holds."""

import random
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest

from mail_outbox.attachment_parts import check_attachment
from mail_outbox.envelope import Attachment, Content, InvalidEmailError
from mail_outbox.render import render
from tests.unit.reader import SENDER, an_email, content_of, read, rendered

LOGO = Attachment('logo.png', 'image/png', b'\x89PNG', cid='logo@shop')
PDF = Attachment('invoice.pdf', 'application/pdf', b'%PDF')
SEES_LOGO = '<img src="cid:logo@shop">'


def shape(part: EmailMessage) -> Any:
    """Return the types of a message's parts, each multipart with its own in a list."""
    if not part.is_multipart() or part.get_content_type().startswith('message/'):
        return part.get_content_type()
    return [part.get_content_type(), *map(shape, part.iter_parts())]


def the_file(attachment: Attachment, **parts: Any) -> EmailMessage:
    (found,) = read(attachment, **parts).iter_attachments()
    assert isinstance(found, EmailMessage)
    return found


def test_attachments_come_back_as_they_were() -> None:
    data = bytes(range(256)) * 10
    files = [
        Attachment('invoice.pdf', 'application/pdf', data),
        Attachment('Übersicht "1".csv', 'text/csv; charset=utf-8', 'ä;b\r\n.\r\n'.encode()),
        Attachment('empty', 'application/octet-stream', b''),
    ]
    message = read(*files)
    assert message.get_content_type() == 'multipart/mixed'
    assert [name.lower() for name, _ in message.items()].count('mime-version') == 1
    found = list(message.iter_attachments())
    assert [part.get_filename() for part in found] == [file.filename for file in files]
    assert [part.get_payload(decode=True) for part in found] == [file.data for file in files]
    assert [part.get_content_type() for part in found[:2]] == ['application/pdf', 'text/csv']
    assert [part.get_content_disposition() for part in found] == ['attachment'] * 3
    assert content_of(message, 'plain') == 'Hello, Anna.\n'


@pytest.mark.parametrize(
    ('name', 'data', 'content_type'),
    [
        ('a.pdf', b'', 'application/pdf'),
        ('A.PNG', b'', 'image/png'),
        ('dir/übersicht.csv', 'ä'.encode(), 'text/csv; charset="utf-8"'),
        ('a.txt', b'plain', 'text/plain'),
        ('a.html', b'\xff', 'text/html'),
        ('a.tar.gz', b'', 'application/gzip'),
        ('invite.ICS', 'SUMMARY:ä'.encode(), 'text/calendar; charset="utf-8"'),
        ('a.webp', b'', 'image/webp'),
        (
            'report.v2.xlsx',
            b'',
            'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
        ),
        ('a.unheard-of', b'', 'application/octet-stream'),
        ('data:text/html,x', b'', 'application/octet-stream'),
        ('.', b'', 'application/octet-stream'),
        (None, b'', 'application/octet-stream'),
    ],
)
def test_type_that_is_not_given_is_guessed_by_the_name(
    name: str | None, data: bytes, content_type: str
) -> None:
    found = the_file(Attachment(name, None, data))
    assert str(found['Content-Type']) == content_type


def test_image_of_a_guessed_type_stands_with_the_html() -> None:
    logo = replace(LOGO, content_type=None)
    assert shape(read(logo, body_text='x', body_html=SEES_LOGO)) == ALTERNATIVE


RELATED = ['multipart/related', 'text/html', 'image/png']
ALTERNATIVE = ['multipart/alternative', 'text/plain', RELATED]


@pytest.mark.parametrize(
    ('text', 'html', 'files', 'expected'),
    [
        ('x', SEES_LOGO, [LOGO], ALTERNATIVE),
        (None, SEES_LOGO, [LOGO], RELATED),
        ('', SEES_LOGO, [LOGO], RELATED),
        ('x', SEES_LOGO, [PDF, LOGO], ['multipart/mixed', ALTERNATIVE, 'application/pdf']),
        (None, SEES_LOGO, [LOGO, PDF], ['multipart/mixed', RELATED, 'application/pdf']),
        ('x', None, [LOGO], ['multipart/mixed', 'text/plain', 'image/png']),
        ('x', ' ', [LOGO], ['multipart/mixed', 'text/plain', 'image/png']),
        (
            'x',
            '<p>',
            [PDF],
            [
                'multipart/mixed',
                ['multipart/alternative', 'text/plain', 'text/html'],
                PDF.content_type,
            ],
        ),
    ],
)
def test_images_are_related_to_the_html_and_files_mixed_with_all(
    text: str | None, html: str | None, files: list[Attachment], expected: Any
) -> None:
    assert shape(read(*files, body_text=text, body_html=html)) == expected


def test_file_with_a_content_id_is_related_only_if_the_html_refers_to_it() -> None:
    """Readers do not list what is in multipart/related: nobody would find the file."""
    pdf, css = (
        replace(PDF, cid='pdf@shop'),
        Attachment('a.css', 'text/css', b'', cid='<a%css@shop>'),
    )
    html = '<link href="cid:a%25css@shop">'
    related = ['multipart/related', 'text/html', 'text/css']
    assert shape(read(pdf, css, body_text=None, body_html=html)) == [
        'multipart/mixed',
        related,
        PDF.content_type,
    ]
    assert shape(read(pdf, body_text=None, body_html='<a href="cid:pdf@shop">')) == [
        'multipart/related', 'text/html', PDF.content_type,
    ]  # fmt: skip


def test_related_part_names_its_root_type_and_its_images_are_inline() -> None:
    related = read(LOGO, body_text=None, body_html=SEES_LOGO)
    assert related['Content-Type'].params['type'] == 'text/html'
    _, image = related.iter_parts()
    assert (image['Content-ID'], image.get_content_disposition()) == ('<logo@shop>', 'inline')
    assert (image.get_filename(), image.get_payload(decode=True)) == ('logo.png', LOGO.data)


@pytest.mark.parametrize('cid', ['logo@shop', '<logo@shop>'])
def test_content_id_has_one_pair_of_angle_brackets(cid: str) -> None:
    _, image = read(replace(LOGO, cid=cid), body_text=None, body_html=SEES_LOGO).iter_parts()
    assert image['Content-ID'] == '<logo@shop>'


def test_empty_content_id_is_none() -> None:
    part = the_file(replace(LOGO, cid=''), body_html=SEES_LOGO)
    assert (part['Content-ID'], part.get_content_disposition()) == (None, 'attachment')


# Names.


@pytest.mark.parametrize(
    'name',
    [
        'Screenshot 2026-11-05 at 9.41.12\u202fAM.png',
        '請求書\u30002026.pdf',
        'a\xa0b.pdf',
        'family \U0001f469\u200d\U0001f469\u200d\U0001f467.jpg',
        'soft\xadhyphen \ufeffmark \u200eltr.txt',
        'line\u2028paragraph\u2029.txt',
        'ß' * 255,
        '日本語' * 85,
        '\U0001f600' * 255,
        'x' * 255,
        'two  spaces.txt',
        ' edge. ',
        'back\\slash "quoted".txt',
        '=?utf-8?q?x=0D=0ABcc=3A_eve?=.txt',
        "percent%20 and 'quote'*.txt",
        '; filename="other.exe"',
        'a;b=c,d.txt',
    ],
    ids=ascii,
)
def test_file_name_comes_back_as_it_was(name: str) -> None:
    assert the_file(replace(PDF, filename=name))['Content-Disposition'].params['filename'] == name


@pytest.mark.parametrize('seed', range(20))
def test_random_file_name_comes_back_as_it_was(seed: int) -> None:
    draw = random.Random(seed)
    letters = (
        'ab1 _-.,;:()"\\\'=?%&*!/<>@[]{}|~^`+#$éß日\u202f\u3000\xa0\U0001f469\u200d\ufeff\u2028'
    )
    for _ in range(20):
        name = ''.join(draw.choices(letters, k=draw.randint(1, 255)))
        assert (
            the_file(replace(PDF, filename=name))['Content-Disposition'].params['filename'] == name
        )


def test_file_without_a_name_has_none() -> None:
    part = the_file(replace(PDF, filename=None))
    assert (part.get_filename(), part.get_content_disposition()) == (None, 'attachment')


# Types.


@pytest.mark.parametrize(
    ('given', 'expected', 'params'),
    [
        (None, 'application/pdf', {}),
        ('Application/PDF', 'application/pdf', {}),
        ('TEXT/CSV; Charset=UTF-8', 'text/csv', {'charset': 'UTF-8'}),
        (
            'text/csv;charset="utf-8";header=present',
            'text/csv',
            {'charset': 'utf-8', 'header': 'present'},
        ),
        (' text/csv ; charset=utf-8 ; ', 'text/csv', {'charset': 'utf-8'}),
        ('text/csv;', 'text/csv', {}),
        ('text/csv; charset', 'text/csv', {}),
        (
            'application/pdf; name="Übersicht \u3000 1.pdf"',
            'application/pdf',
            {'name': 'Übersicht \u3000 1.pdf'},
        ),
        (f'application/pdf; name="{"日本語" * 80}"', 'application/pdf', {'name': '日本語' * 80}),
        ('application/pdf; name="a;b\\"c"', 'application/pdf', {'name': 'a;b"c'}),
        ('application/vnd.ms-excel.sheet+xml', 'application/vnd.ms-excel.sheet+xml', {}),
        ('Multipart/Mixed; boundary=x', 'application/octet-stream', {}),
        ('multipart/signed', 'application/octet-stream', {}),
    ],
)
def test_content_type_comes_back_as_it_was_meant(
    given: str | None, expected: str, params: dict[str, str]
) -> None:
    part = the_file(replace(PDF, content_type=given))
    assert (part.get_content_type(), dict(part['Content-Type'].params)) == (expected, params)
    assert part.get_payload(decode=True) == PDF.data


MESSAGE_TYPES = ['message/rfc822', 'Message/RFC822', 'MESSAGE/rfc822; x=y']


@pytest.mark.parametrize('content_type', MESSAGE_TYPES)
@pytest.mark.parametrize('line_end', ['\r\n', '\n'])
def test_attached_message_travels_as_it_is(content_type: str, line_end: str) -> None:
    part = the_file(
        Attachment('a.eml', content_type, f'Subject: x{line_end * 2}.x{line_end}'.encode())
    )
    assert (part.get_content_type(), part['Content-Transfer-Encoding']) == (
        'message/rfc822',
        '7bit',
    )
    assert part.get_filename() == 'a.eml'
    inner = part.get_content()
    assert (inner['Subject'], inner.get_content()) == ('x', '.x\r\n')


@pytest.mark.parametrize(
    'content_type', [*MESSAGE_TYPES, 'message/partial', 'message/external-body']
)
@pytest.mark.parametrize(
    'data', ['Subject: x\r\n\r\nü'.encode(), b'Subject: ' + b'x' * 999, b'a\0']
)
def test_attached_message_that_would_need_an_encoding_is_a_plain_file(
    content_type: str, data: bytes
) -> None:
    """No encoding but those that change nothing may be used for a message (RFC 2046, 5.2.1)."""
    part = the_file(Attachment('a.eml', content_type, data))
    assert (part.get_content_type(), part.get_payload(decode=True)) == (
        'application/octet-stream',
        data,
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
        Attachment('a\x1b[2J', 'application/pdf', b''),
        Attachment('a\x85', 'application/pdf', b''),
        Attachment('a\x7f', 'application/pdf', b''),
        Attachment('\ud800', 'application/pdf', b''),
        Attachment('x' * 256, 'application/pdf', b''),
        Attachment('a', 'None', b''),
        Attachment('a', 'application/päf', b''),
        Attachment('a', 'application/pdf; name="\ud800"', b''),
        Attachment('a', 'application/pdf; name="' + 'x' * 1000, b''),
        Attachment('a', 'application/pdf', b'', cid='<a> <b>'),
        Attachment('a', 'application/pdf', b'', cid='ü@shop'),
        Attachment('a', 5, b''),  # type: ignore[arg-type]
        Attachment(5, 'application/pdf', b''),  # type: ignore[arg-type]
        Attachment('a', 'application/pdf', b'', cid=5),  # type: ignore[arg-type]
        Attachment('a', 'application/pdf', b'', cid='x\ny'),
    ],
)
def test_attachment_that_cannot_be_sent_is_refused(attachment: Attachment) -> None:
    with pytest.raises(InvalidEmailError, match=r'^attachment '):
        rendered(attachment)
    with pytest.raises(InvalidEmailError, match=r'^attachment '):
        check_attachment(attachment)


@pytest.mark.parametrize('attached', [False, True])
def test_message_over_the_limit_is_refused_with_both_numbers(*, attached: bool) -> None:
    content = Content(
        attachments=[Attachment('a', 'application/pdf', b'x' * 3000)] if attached else []
    )
    row = an_email(body_text='x\n' * 1000)
    size_bytes = len(render(row, content, SENDER, 10_000_000).message)
    assert render(row, content, SENDER, size_bytes)
    with pytest.raises(
        InvalidEmailError,
        match=rf'message: {size_bytes} bytes, at most {size_bytes - 1} are allowed',
    ):
        render(row, content, SENDER, size_bytes - 1)


def test_attachments_over_the_limit_are_refused_before_they_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('mail_outbox.mime.binascii', None)
    content = Content(attachments=[Attachment('a', 'application/pdf', b'x' * 3000)] * 2)
    with pytest.raises(InvalidEmailError, match='message: 6000 bytes, at most 5999 are allowed'):
        render(an_email(), content, SENDER, 5999)
