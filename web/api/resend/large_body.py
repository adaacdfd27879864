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
MOST_VALUES = 100_000  # so that what is left to do for the web server is bounded
BLANKS = b' \t\r\n'
FRAME = struct.Struct('>I')


class TooManyValuesError(Exception):
    """There are more values than e-mails need."""


def with_bytes(document: Any) -> Any:
    """Return a document whose files are bytes; one that is not sound stays as it is.

    Raises:
        TooManyValuesError.
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
    _check_number(document)
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


def _check_number(document: Any) -> None:
    left = [document]
    seen = 0
    while left:
        value = left.pop()
        inner = (
            value
            if isinstance(value, list)
            else list(value.values())
            if isinstance(value, dict)
            else []
        )
        seen += len(inner)
        if seen > MOST_VALUES:
            raise TooManyValuesError
        left += inner


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is no number in JSON')


def frames_of(body: bytes) -> list[Any]:
    """Return what is answered, a frame each."""
    try:
        # orjson would take fifteen times the body's size of memory.
        document = with_bytes(json.loads(body, parse_constant=_refuse))
    except (TooManyValuesError, MemoryError):
        return ['too many', MOST_VALUES]
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
