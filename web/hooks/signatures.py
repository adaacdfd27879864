"""How each provider proves that a call is its own. Every comparison takes the same time."""

import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

LATE_S = 15 * 60.0  # a call that was signed longer ago may be a replay; they repeat theirs anew


def has_password(headers: Mapping[str, str], secret: str) -> bool:
    """Whether a call has a secret: X-Webhook-Secret, a Bearer token, or HTTP Basic's password."""
    given = headers.get('x-webhook-secret', '')
    scheme, _, credentials = headers.get('authorization', '').partition(' ')
    if scheme.lower() == 'bearer':
        given = credentials.strip()
    elif scheme.lower() == 'basic':
        try:
            decoded = base64.b64decode(credentials.strip(), validate=True).decode('latin-1')
        except (binascii.Error, ValueError):
            return False
        given = decoded.partition(':')[2]
    return hmac.compare_digest(given.encode('latin-1', 'replace'), secret.encode())


def is_mailgun(signature: Any, key: str, now: float | None = None) -> bool:
    """Whether Mailgun signed: HMAC-SHA256 over timestamp and token."""
    if not isinstance(signature, dict):
        return False
    timestamp, token = str(signature.get('timestamp')), str(signature.get('token'))
    given = str(signature.get('signature'))
    if not timestamp.isdecimal() or len(timestamp) > 12 or len(token) > 200:
        return False
    if abs((time.time() if now is None else now) - int(timestamp)) > LATE_S:
        return False
    wanted = hmac.new(key.encode(), f'{timestamp}{token}'.encode(errors='replace'), sha256)
    return hmac.compare_digest(wanted.hexdigest(), given.encode('ascii', 'replace').decode())


def is_sendgrid(
    headers: Mapping[str, str], body: bytes, key: str, now: float | None = None
) -> bool:
    """Whether SendGrid signed: ECDSA with SHA-256 over the timestamp and the body."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - few have it
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415

    timestamp = headers.get('x-twilio-email-event-webhook-timestamp', '')
    if not timestamp.isdecimal() or len(timestamp) > 12:
        return False
    if abs((time.time() if now is None else now) - int(timestamp)) > LATE_S:
        return False
    try:
        public = load_der_public_key(base64.b64decode(key))
        signature = base64.b64decode(headers.get('x-twilio-email-event-webhook-signature', ''))
        if not isinstance(public, ec.EllipticCurvePublicKey):
            return False
        public.verify(signature, timestamp.encode() + body, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True
