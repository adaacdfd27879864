"""Amazon SNS: who signed a message, and the answer to a subscription.

Source: docs.aws.amazon.com/sns, verifying the signatures of Amazon SNS messages. A certificate and
a SubscribeURL are fetched from SNS's own hosts alone, over HTTPS, without redirects.
"""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

SNS_HOST = re.compile(r'sns\.[a-z]{2}(-[a-z]+)+-[0-9]\.amazonaws\.com(\.cn)?')
PLAIN_URL = re.compile(r'[!#-\[\]_a-z~]+', re.IGNORECASE)
FETCH_WITHIN_S = 5.0
MOST_BYTES = 64 * 1024
MOST_CERTIFICATES = 16
LATE_S = 3600.0  # SNS repeats a message for an hour, with the signature it had
SIGNED = {
    'Notification': ('Message', 'MessageId', 'Subject', 'Timestamp', 'TopicArn', 'Type'),
    'SubscriptionConfirmation': (
        'Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type',
    ),
}  # fmt: skip
SIGNED['UnsubscribeConfirmation'] = SIGNED['SubscriptionConfirmation']

Fetch = Callable[[str], Awaitable[bytes]]


class NotFromSnsError(Exception):
    """A message that SNS did not sign, or a topic that is none of ours."""


def check_url(url: Any) -> str:
    """Return a URL of SNS's own.

    Raises:
        NotFromSnsError: it is anybody else's.
    """
    # urlsplit drops line ends, and others read spaces and backslashes in other ways than it does.
    is_plain = isinstance(url, str) and len(url) < 2000 and PLAIN_URL.fullmatch(url)
    try:
        parts = urlsplit(url) if is_plain else None
        port = parts.port if parts else None
    except ValueError:
        parts = port = None
    if (
        parts is None
        or parts.scheme != 'https'
        or port not in (None, 443)
        or parts.username is not None
        or SNS_HOST.fullmatch(parts.hostname or '') is None
    ):
        raise NotFromSnsError(f'{str(url)[:100]!r} is no address of SNS')
    return str(url)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _get(url: str) -> bytes:
    request = Request(check_url(url))  # noqa: S310 - its scheme and host were checked
    with build_opener(_NoRedirect).open(request, timeout=FETCH_WITHIN_S) as answer:
        data: bytes = answer.read(MOST_BYTES)
    return data


async def fetch(url: str) -> bytes:
    """Fetch what stands at an address of SNS's.

    Raises:
        OSError: it does not answer.
    """
    try:
        async with asyncio.timeout(2 * FETCH_WITHIN_S):
            return await asyncio.to_thread(_get, url)
    except (URLError, HTTPException, ValueError) as error:
        raise OSError(str(error) or type(error).__name__) from error


class SnsMessages:
    """Checks messages; certificates are kept."""

    def __init__(self, topic_arns: tuple[str, ...], fetch: Fetch = fetch) -> None:
        self.topic_arns = topic_arns
        self._fetch = fetch
        self._certificates: dict[str, bytes] = {}

    async def check(self, message: Mapping[str, Any], now: float | None = None) -> None:
        """Check who signed a message, and what for.

        Raises:
            NotFromSnsError: it is not to be believed.
            OSError: the certificate cannot be fetched now.
        """
        if message.get('TopicArn') not in self.topic_arns:
            raise NotFromSnsError('the topic is none of SES_TOPIC_ARNS')
        names = SIGNED.get(str(message.get('Type')))
        if names is None:
            raise NotFromSnsError('it is no message of SNS')
        url = check_url(message.get('SigningCertURL'))
        if not urlsplit(url).path.endswith('.pem'):
            raise NotFromSnsError('the certificate has another name')
        signed_at = _seconds(message.get('Timestamp'))
        if abs((time.time() if now is None else now) - signed_at) > LATE_S:
            raise NotFromSnsError('it was signed long ago')
        given = [name for name in names if isinstance(message.get(name), str)]
        text = ''.join(f'{name}\n{message[name]}\n' for name in given).encode(errors='replace')
        await asyncio.to_thread(_verify, message, text, await self._certificate(url))

    async def confirm(self, message: Mapping[str, Any]) -> None:
        """Confirm a subscription that was checked.

        Raises:
            NotFromSnsError, OSError: as check.
        """
        await self._fetch(check_url(message.get('SubscribeURL')))

    async def _certificate(self, url: str) -> bytes:
        if url not in self._certificates:
            if len(self._certificates) >= MOST_CERTIFICATES:
                self._certificates.clear()
            self._certificates[url] = await self._fetch(url)
        return self._certificates[url]


def _seconds(timestamp: Any) -> float:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise NotFromSnsError('it has no time') from error


def _verify(message: Mapping[str, Any], text: bytes, certificate: bytes) -> None:
    from cryptography import x509  # noqa: PLC0415 - few have it
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256  # noqa: PLC0415

    version = str(message.get('SignatureVersion'))
    digest: Any = {'1': SHA1, '2': SHA256}.get(version)
    if digest is None:
        raise NotFromSnsError('its signature is of an unknown version')
    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
        signature = base64.b64decode(str(message.get('Signature')), validate=True)
        if not isinstance(public, rsa.RSAPublicKey):
            raise NotFromSnsError('its certificate has another kind of key')
        public.verify(signature, text, padding.PKCS1v15(), digest())
    except (InvalidSignature, ValueError, binascii.Error) as error:
        raise NotFromSnsError('its signature is wrong') from error
