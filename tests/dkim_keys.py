"""Private keys for tests that sign, and for tests of those that check."""

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mail.signing.keys import Algorithm


def new_key(algorithm: Algorithm) -> bytes:
    """Make a private key, in PEM form."""
    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm is Algorithm.ED25519
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
