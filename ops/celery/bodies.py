"""Bodies of kombu's messages: unpacked up to a limit, never unpickled. Pure: bytes in, bytes out.

Source: kombu/compression.py, kombu/transport/virtual/base.py (body_encoding)
"""

import base64
import binascii
import bz2
import lzma
import reprlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

MAX_BODY_BYTES = 4 * 2**20  # unpacked; a task about one e-mail takes a hundred bytes
STEP_BYTES = 64 * 2**10
LZMA_MEMORY_BYTES = 32 * 2**20


class UnreadableError(Exception):
    """Not a message that can be understood."""


class _Decompressor(Protocol):
    """What bz2 and lzma have."""

    @property
    def eof(self) -> bool:
        """Whether all is unpacked."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to unpack in what it was given."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Unpack at most so many bytes."""


ALIASES = {
    **dict.fromkeys(('gzip', 'zlib', 'application/gzip', 'application/zlib'), 'application/x-gzip'),
    **dict.fromkeys(('bzip2', 'bzip', 'application/x-bzip2'), 'application/x-bz2'),
    **dict.fromkeys(('lzma', 'xz', 'application/x-xz'), 'application/x-lzma'),
}


def read_body(envelope: Mapping[str, Any], compression: Any) -> bytes:
    """Return a message's body as its content type has it.

    Args:
        envelope: kombu's, decoded.
        compression: Its header of that name, or None.
    Raises:
        UnreadableError: it is damaged, packed in an unknown way, or more than MAX_BODY_BYTES.
    """
    data = _decoded(envelope)
    if not compression:
        return data
    form = (
        FORMS.get(ALIASES.get(compression, compression)) if isinstance(compression, str) else None
    )
    if form is None:
        raise UnreadableError(f'its compression is unknown: {reprlib.repr(compression)}')
    try:
        return form(data)
    except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, MemoryError) as error:
        raise UnreadableError(f'its body cannot be unpacked: {error}'[:200]) from error


def _decoded(envelope: Mapping[str, Any]) -> bytes:
    body = envelope.get('body')
    if not isinstance(body, str):
        raise UnreadableError('it has no body')
    properties = envelope.get('properties')
    encoding = properties.get('body_encoding') if isinstance(properties, dict) else None
    try:
        if encoding == 'base64':
            return base64.b64decode(body, validate=True)
        return body.encode()
    except (binascii.Error, ValueError) as error:
        raise UnreadableError(f'its body is no base64: {error}'[:200]) from error


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=47)
    unpacked = unpacker.decompress(data, MAX_BODY_BYTES + 1)
    if len(unpacked) > MAX_BODY_BYTES:
        raise UnreadableError(f'its body unpacks to more than {MAX_BODY_BYTES} bytes')
    if not unpacker.eof:
        raise UnreadableError('its body cannot be unpacked: it ends too early')
    return unpacked


def _unpack(unpacker: _Decompressor, data: bytes) -> bytes:
    parts = bytearray()
    while not unpacker.eof:
        if unpacker.needs_input and not data:
            raise UnreadableError('its body cannot be unpacked: it ends too early')
        parts += unpacker.decompress(data, STEP_BYTES)
        data = b''
        if len(parts) > MAX_BODY_BYTES:
            raise UnreadableError(f'its body unpacks to more than {MAX_BODY_BYTES} bytes')
    return bytes(parts)


# kombu's application/x-gzip is zlib's own form; 47: that, or real gzip, by what its first bytes
# say. Both raw forms of lzma, too. brotli and zstd are in no standard library.
FORMS: Mapping[str, Callable[[bytes], bytes]] = {
    'application/x-gzip': _inflate,
    'application/x-bz2': lambda data: _unpack(bz2.BZ2Decompressor(), data),
    'application/x-lzma': lambda data: _unpack(
        lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES), data
    ),
}
