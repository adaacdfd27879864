"""The keys that sign: read, checked, and shown as the DNS record that a receiver looks for."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

# RFC 8301, 3.2: signers use at least 1024 bits, and receivers need not take more than 4096.
LEAST_BITS, MOST_BITS = 1024, 4096


class Algorithm(StrEnum):
    """How a key signs: the tag a= of a signature, without its hash."""

    RSA = 'rsa'
    ED25519 = 'ed25519'


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and where receivers find its public part.

    Attributes:
        domain: Whose mail it signs, in lower case, ASCII.
        public: The public key as the tag p= has it (RFC 6376, 3.6.1; RFC 8463, 4).
        sign: Takes the SHA-256 digest of what is signed.
        unsigned: Fields that are left out, in lower case: a relay writes them anew.
    """

    domain: str
    selector: str
    algorithm: Algorithm
    public: str
    bits: int
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    unsigned: frozenset[str] = frozenset()

    @property
    def record_name(self) -> str:
        """The name of the DNS record with the public key."""
        return f'{self.selector}._domainkey.{self.domain}'

    @property
    def record_text(self) -> str:
        """What that TXT record says."""
        return f'v=DKIM1; k={self.algorithm}; p={self.public}'


def read_key(
    pem: bytes, domain: str, selector: str, unsigned: frozenset[str] = frozenset()
) -> SigningKey:
    """Read a private key.

    Args:
        pem: PKCS#8, or PKCS#1 for RSA, without a password.
    Raises:
        ValueError: it is none that can sign; says why, and shows nothing of it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - few installations sign
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError('the key is locked by a password') from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError('no private key in PEM form (-----BEGIN PRIVATE KEY-----)') from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        return SigningKey(domain, selector, Algorithm.ED25519, public, 256, key.sign, unsigned)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError('the key is neither RSA nor Ed25519')  # noqa: TRY004 - as the others
    if not LEAST_BITS <= key.key_size <= MOST_BITS:
        raise ValueError(
            f'RSA with {key.key_size} bits: receivers take {LEAST_BITS} to {MOST_BITS}, '
            'best 2048 (RFC 8301)'
        )
    return SigningKey(
        domain, selector, Algorithm.RSA, _rsa_public(key), key.key_size, _rsa_sign(key), unsigned
    )


def _rsa_sign(key: 'rsa.RSAPrivateKey') -> Callable[[bytes], bytes]:
    from cryptography.hazmat.primitives.asymmetric import padding, utils  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    scheme, digest_kind = padding.PKCS1v15(), utils.Prehashed(SHA256())
    return lambda digest: key.sign(digest, scheme, digest_kind)


def _rsa_public(key: 'rsa.RSAPrivateKey') -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()
