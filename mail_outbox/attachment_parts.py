"""Attachments as parts of a message: type, file name and Content-ID checked, content encoded."""

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import unquote

from mail_outbox.envelope import Attachment, InvalidEmailError
from mail_outbox.headers import FOLD_CHARS, header
from mail_outbox.media_types import UNKNOWN_TYPE, media_type_of
from mail_outbox.mime import base64_lines, seven_bit
from mail_outbox.parameters import parameter, parameters, split_parameters

MAX_FILENAME_CHARS = 255
MAX_ATTACHMENTS = 500
MAX_CONTENT_TYPE_CHARS = 1000
TYPE_NAME = r"[\w!#$%&'*+.^`{|}~-]{1,127}"  # RFC 2045, 5.1
MEDIA_TYPE = re.compile(rf'{TYPE_NAME}/{TYPE_NAME}', re.ASCII)
CONTENT_ID = re.compile(r'[!-;=?-~]{1,255}')  # printable ASCII without angle brackets and spaces
CID_URL = re.compile(r"""cid:([^\s"'<>)]++)""", re.IGNORECASE)
CONTROL_CHARACTER = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')


def attachment_part(attachment: Attachment, *, inline: bool = False) -> bytes:
    """Return an attachment: its headers, an empty line, its content.

    The content is in base64; a message stays as it is.

    Args:
        inline: Whether it is shown where the HTML refers to it.
    Raises:
        InvalidEmailError: file name, content type or Content-ID cannot stand in a header.
    """
    media_type, given = _media_type(attachment)
    content: Sequence[bytes] | None = None
    encoding = b'7bit'
    if media_type.lower().startswith('message/'):
        content = seven_bit(attachment.data)
    if content is None:
        content, encoding = base64_lines(attachment.data), b'base64'
        # base64 is not for them (RFC 2045, 6.4).
        if media_type.lower().startswith(('message/', 'multipart/')):
            media_type, given = UNKNOWN_TYPE, []
    cid = content_id(attachment)
    return b''.join(
        [
            _with_parameters('Content-Type', media_type, given),
            b'Content-Transfer-Encoding: %b\r\n' % encoding,
            _with_parameters(
                'Content-Disposition', 'inline' if inline else 'attachment', _filename(attachment)
            ),
            header('Content-ID', f'<{cid}>') if cid else b'',
            b'\r\n',
            *content,
        ]
    )


def parts_by_place(
    html: str | None, attachments: Sequence[Attachment]
) -> tuple[list[bytes], list[bytes]]:
    """Return the attachments that are parts of the HTML, and the other files, as parts.

    Of the HTML are images with a Content-ID, and what it refers to.

    Raises:
        InvalidEmailError: see attachment_part.
    """
    cids = [content_id(attachment) for attachment in attachments]
    if html is None or not any(cids):
        return [], [attachment_part(attachment) for attachment in attachments]
    referred = {unquote(cid) for cid in CID_URL.findall(html)}  # RFC 2392, 2: percent-encoded
    inline: list[bytes] = []
    files: list[bytes] = []
    for attachment, cid in zip(attachments, cids, strict=True):
        if cid and (cid in referred or is_image(attachment)):
            inline.append(attachment_part(attachment, inline=True))
        else:
            files.append(attachment_part(attachment))
    return inline, files


def check_attachment(attachment: Attachment) -> None:
    """Refuse what attachment_part refuses, which does not depend on the data.

    Raises:
        InvalidEmailError: file name, content type or Content-ID cannot stand in a header.
    """
    attachment_part(replace(attachment, data=b''))


def check_attachments(attachments: Sequence[Attachment], max_bytes: int) -> None:
    """Refuse attachments of one e-mail that can never be sent.

    Raises:
        InvalidEmailError: one is none, or has a name, content type or Content-ID that cannot stand
            in a header; or all are more than a message may have.
    """
    if len(attachments) > MAX_ATTACHMENTS:
        raise InvalidEmailError(
            f'attachments: {len(attachments)}, at most {MAX_ATTACHMENTS} are allowed'
        )
    for attachment in attachments:
        if not isinstance(attachment, Attachment):
            raise InvalidEmailError(
                f'attachments: has a {type(attachment).__name__}, must be Attachment(...)'
            )
        if not isinstance(attachment.data, bytes | bytearray):
            raise InvalidEmailError(
                f'{_name(attachment)}: data must be bytes, not {type(attachment.data).__name__}'
            )
        check_attachment(attachment)
    size_bytes = sum(4 * len(attachment.data) // 3 for attachment in attachments)
    if size_bytes > max_bytes:
        raise InvalidEmailError(
            f'attachments: {size_bytes} bytes in base64, at most {max_bytes} are allowed'
        )


def is_image(attachment: Attachment) -> bool:
    """Tell whether the type of an attachment, given or guessed, is one of images."""
    return _media_type(attachment)[0].lower().startswith('image/')


def content_id(attachment: Attachment) -> str:
    """Return the Content-ID without its angle brackets; an empty one is none."""
    cid = attachment.cid or ''
    if isinstance(cid, str) and cid[:1] + cid[-1:] == '<>':
        cid = cid[1:-1]
    if cid and not (isinstance(cid, str) and CONTENT_ID.fullmatch(cid)):
        raise InvalidEmailError(f'{_name(attachment)}: {repr(cid)[:80]} is no Content-ID')
    return cid


def _name(attachment: Attachment) -> str:
    return f'attachment {repr(attachment.filename)[:80]}'


def _media_type(attachment: Attachment) -> tuple[str, list[str]]:
    """Return the type and its parameters as they stand in the header, without malformed ones."""
    given: object = attachment.content_type
    if given is None:
        return _guessed_type(attachment)
    if (
        isinstance(given, str)
        and len(given) <= MAX_CONTENT_TYPE_CHARS
        and not CONTROL_CHARACTER.search(given)
    ):
        media_type, found = split_parameters(given)
        if MEDIA_TYPE.fullmatch(media_type):
            return media_type, parameters(found)
    raise InvalidEmailError(f'{_name(attachment)}: {repr(given)[:80]} is no content type')


def _guessed_type(attachment: Attachment) -> tuple[str, list[str]]:
    """Guess by the file name's ending."""
    _, dot, ending = str(attachment.filename or '').rpartition('/')[2].partition('.')
    if not dot or len(ending) > MAX_FILENAME_CHARS:
        return UNKNOWN_TYPE, []
    guessed = media_type_of(ending)
    if not MEDIA_TYPE.fullmatch(guessed):
        return UNKNOWN_TYPE, []
    if guessed.startswith('text/') and not attachment.data.isascii() and _is_utf8(attachment.data):
        return guessed, ['charset=utf-8']
    return guessed, []


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _filename(attachment: Attachment) -> list[str]:
    """Return the file name as a parameter (RFC 2183; RFC 2231 where it is not ASCII)."""
    name: object = attachment.filename
    if name is None:
        return []
    if (
        not isinstance(name, str)
        or len(name) > MAX_FILENAME_CHARS
        or CONTROL_CHARACTER.search(name)
    ):
        raise InvalidEmailError(f'{_name(attachment)}: not a file name')
    return parameter('filename', name)


def _with_parameters(name: str, value: str, given: Sequence[str]) -> bytes:
    line = '; '.join([f'{name}: {value}', *given])
    return (line if len(line) <= FOLD_CHARS else line.replace('; ', ';\r\n ')).encode() + b'\r\n'
