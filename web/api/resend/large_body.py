"""Read a large body: a program of its own, from stdin to stdout; web.api.resend.body starts it.

It ends after one body, and takes no more memory and time than its limits. Frames are answered: a
word, then a value each: of an array its items, else the document. Files, which are text or arrays
of numbers in JSON, are bytes then: that is most of a large body.
"""

import binascii
import json
import marshal
import resource
import struct
import sys
from typing import Any

MEMORY_BYTES = 512 * 1024 * 1024
PROCESSOR_S = 15
# So that what is left to do for the web server is bounded.
MOST_VALUES = 100_000
LONGEST_TEXT = 10 * 1024 * 1024  # mail_outbox.field_checks.MAX_BODY_BYTES; files are bytes by then
BLANKS = b' \t\r\n'
FRAME = struct.Struct('>I')


class TooMuchError(Exception):
    """There is more than e-mails need; the message says of what."""


def with_bytes(document: Any) -> Any:
    """Return a document whose files are bytes; one that is not sound stays as it is.

    Raises:
        TooMuchError; UnicodeEncodeError: it has half a character.
    """
    for email in document if isinstance(document, list) else [document]:
        if not isinstance(email, dict):
            continue
        files = email.get('attachments')
        for file in files if isinstance(files, list) else []:
            if isinstance(file, dict) and 'content' in file:
                file['content'] = _as_bytes(file['content'])
        if 'raw' in email:
            email['raw'] = _as_bytes(email['raw'])
    _check_values(document)
    return document


def _as_bytes(content: Any) -> Any:
    try:
        if isinstance(content, list):
            return bytes(content)
        if isinstance(content, str):
            text = content.encode('ascii').translate(None, BLANKS)
            return binascii.a2b_base64(text, strict_mode=True)
    except (TypeError, ValueError):
        return False  # what it is instead no longer matters, and may be large
    return content


def _check_values(document: Any) -> None:
    left = [document]
    seen = 0
    while left:
        value = left.pop()
        if isinstance(value, list | dict):
            seen += len(value)
            if seen > MOST_VALUES:
                raise TooMuchError(f'more than {MOST_VALUES} values')
            left += value if isinstance(value, list) else [*value, *value.values()]
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                raise TooMuchError(f'a text of more than {LONGEST_TEXT} characters')
            value.encode()  # a lone surrogate is no JSON to orjson either, which reads small bodies


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is no number in JSON')


def frames_of(body: bytes) -> list[Any]:
    """Return what is answered, a frame each."""
    try:
        # orjson would take fifteen times the body's size of memory.
        document = with_bytes(json.loads(body, parse_constant=_refuse))
    except TooMuchError as error:
        return ['too much', str(error)]
    except MemoryError:
        return ['too much', 'more than can be read']
    except (ValueError, RecursionError) as error:
        return ['error', str(error)]
    return ['array', *document] if isinstance(document, list) else ['value', document]


def main() -> int:
    """Answer. Returns the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for value in frames_of(sys.stdin.buffer.read()):
        frame = marshal.dumps(value)
        sys.stdout.buffer.write(FRAME.pack(len(frame)))
        sys.stdout.buffer.write(frame)
    return 0


if __name__ == '__main__':
    sys.exit(main())
