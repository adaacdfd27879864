"""Links by which a recipient takes himself off the mail of one type (RFC 2369, RFC 8058).

A link's token is base64url of a signature and of what it covers: the e-mail's id, its type and the
recipient's address. It needs no row, so it works for as long as a secret of then is known.
"""

import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from mail_outbox.address_fields import read_address_fields
from mail_outbox.envelope import Email
from mail_outbox.rendered import Rendered

PATH = '/unsubscribe/'
SIGNATURE_BYTES = 16  # 128 bits
# With an address of 254 bytes and a type of 100; the header's line has 998 characters at most.
LONGEST_TOKEN_CHARS = 700
TOKEN = re.compile(rf'[A-Za-z0-9_-]{{24,{LONGEST_TOKEN_CHARS}}}')
# Its own are the application's business; a signature over the message may cover that there are no
# such fields (RFC 6376, 5.4.2).
OWN_FIELDS = re.compile(
    rb'^(list-unsubscribe|list-unsubscribe-post|dkim-signature)[ \t]*:',
    re.IGNORECASE | re.MULTILINE,
)
HEAD_END = b'\r\n\r\n'


@dataclass(frozen=True, slots=True)
class Unsubscription:
    """Who wants no more mail of which type, and the e-mail whose link says so."""

    email_id: int
    email_type: str
    address: str  # as it stood in the envelope


@dataclass(frozen=True, slots=True)
class UnsubscribeLinks:
    """The links of an installation.

    Attributes:
        base_url: What stands before PATH, such as https://mail.example.com.
        secrets: The first signs, all are known.
        types: Those whose mail gets a link, each with the words that people read.
    """

    base_url: str
    secrets: Sequence[str] = field(repr=False)
    types: Mapping[str, str] = field(default_factory=dict)

    def words_of(self, email_type: str) -> str:
        """Return what people read of a type, also of one that gets no links any more."""
        return self.types.get(email_type, email_type)

    def url(self, email_id: int, email_type: str, address: str) -> str | None:
        """Return a link; None where it would be too long for a header."""
        told = f'{email_id}\0{email_type}\0{address}'.encode()
        token = _token(_signature(self.secrets[0], told), told)
        return None if len(token) > LONGEST_TOKEN_CHARS else f'{self.base_url}{PATH}{token}'

    def url_of(self, email: Email) -> str | None:
        """Return the link for the body; None where the e-mail gets none.

        Its body goes to everybody, so it has to have one recipient.

        Raises:
            InvalidEmailError: an address is none.
        """
        if email.email_type not in self.types:
            return None
        recipients = read_address_fields(email).envelope('').recipients
        return self._link(email, recipients[0]) if len(recipients) == 1 else None

    def put_on(self, email: Email, rendered: Rendered) -> Rendered:
        """Return a message with List-Unsubscribe fields in each copy that is for one recipient.

        One that has such fields, or a DKIM signature, stays as it is.
        """
        if email.email_type not in self.types:
            return rendered
        message, recipients = rendered.message, rendered.envelope.recipients
        if OWN_FIELDS.search(message, 0, message.find(HEAD_END) + len(HEAD_END)):
            return rendered
        if rendered.own_heads:
            heads = {to: self._fields(email, to) + head for to, head in rendered.own_heads.items()}
            head = next(iter(heads.values()))
            return rendered._replace(
                message=head + message[rendered.head_bytes :],
                head_bytes=len(head),
                own_heads=heads,
            )
        if len(recipients) != 1:
            return rendered
        fields, ascii_head = self._fields(email, recipients[0]), rendered.ascii_head
        return rendered._replace(
            message=fields + message,
            head_bytes=len(fields) + rendered.head_bytes,
            ascii_head=None if ascii_head is None else fields + ascii_head,
        )

    def read(self, token: str) -> Unsubscription | None:
        """Return what a token says; None where nobody of us signed it."""
        if TOKEN.fullmatch(token) is None:
            return None
        try:
            data = b64decode(token + '=' * (-len(token) % 4), b'-_', validate=True)
        except ValueError:
            return None
        given, told = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
        # All are compared, each in a time that does not tell how much fits.
        fits = [hmac.compare_digest(given, _signature(secret, told)) for secret in self.secrets]
        if not any(fits) or _token(given, told) != token:  # one spelling for each
            return None
        email_id, email_type, address = told.decode().split('\0')
        return Unsubscription(int(email_id), email_type, address)

    def _link(self, email: Email, address: str) -> str | None:
        return self.url(email.id, email.email_type or '', address)

    def _fields(self, email: Email, address: str) -> bytes:
        url = self._link(email, address)
        if url is None:
            return b''
        # Not folded: nobody has to put a link together again.
        post = 'List-Unsubscribe-Post: List-Unsubscribe=One-Click'
        return f'List-Unsubscribe: <{url}>\r\n{post}\r\n'.encode()


def _signature(secret: str, told: bytes) -> bytes:
    return hmac.digest(secret.encode(), b'unsubscribe ' + told, sha256)[:SIGNATURE_BYTES]


def _token(signature: bytes, told: bytes) -> str:
    return urlsafe_b64encode(signature + told).decode().rstrip('=')
