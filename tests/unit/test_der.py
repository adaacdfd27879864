"""engine/der.py: when a certificate ends, out of its bytes."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from engine.der import certificate_ends_at

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'x' * 40)])


def certificate(ends_at):
    return (
        x509.CertificateBuilder()
        .subject_name(NAME).issuer_name(NAME).public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(1960, 1, 1, tzinfo=dt.UTC)).not_valid_after(ends_at)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName('x' * 60 + '.example')]), False)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )  # fmt: skip


@pytest.mark.parametrize('year', [1969, 1975, 1999, 2026, 2049, 2050, 2071, 9999])
def test_end_is_that_of_the_certificate(year):
    ends_at = dt.datetime(year, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    assert certificate_ends_at(certificate(ends_at)) == ends_at.timestamp()


@given(st.one_of(st.binary(), st.integers(0, 300).map(lambda n: certificate(
    dt.datetime(2030, 1, 1, tzinfo=dt.UTC))[:n])))  # fmt: skip
def test_what_is_no_certificate_is_named_so(noise):
    with pytest.raises(ValueError, match=r'no X\.509 certificate'):
        certificate_ends_at(noise)
