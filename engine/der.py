"""When a certificate ends, out of its bytes: X.509 in DER (RFC 5280, 4.1).

The standard library tells it of certificates that it has verified, and not of our own, or of one
that has expired.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def certificate_ends_at(der: bytes) -> float:
    """Return a certificate's notAfter, in seconds since 1970.

    Raises:
        ValueError: it is no certificate.
    """
    try:
        (_, certificate), *_ = _parts(der)
        (_, signed), *_ = _parts(certificate)
        fields = [value for tag, value in _parts(signed) if tag != VERSION]
        # serialNumber, signature, issuer, validity, ...
        _, (tag, not_after) = _parts(fields[3])
        form = {UTC_TIME: '%y%m%d%H%M%SZ', GENERALIZED_TIME: '%Y%m%d%H%M%SZ'}[tag]
        # Years from 50 on are of the last century (4.1.2.5.1); strptime turns at 69.
        ends_at = datetime.strptime(not_after.decode(), form).replace(tzinfo=UTC)
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError('it is no X.509 certificate') from error
    if tag == UTC_TIME and ends_at.year >= 2050:
        ends_at = ends_at.replace(year=ends_at.year - 100)
    return ends_at.timestamp()


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of what stands one after the other."""
    place = 0
    while place < len(data):
        tag, length = data[place], data[place + 1]
        place += 2
        if length & 0x80:  # that many bytes of length follow
            size = length & 0x7F
            length = int.from_bytes(data[place : place + size])
            place += size
        if place + length > len(data):
            raise ValueError('it is cut off')
        yield tag, data[place : place + length]
        place += length
