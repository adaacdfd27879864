"""An envelope sender of its own for each e-mail (VERP): what comes back to it names the e-mail.

`bounces@example.com` becomes `bounces+123-ab3k...@example.com`: the id and a signature over it, in
letters that no server changes (RFC 5321, 2.4: some fold the case of a local part).
"""

import hmac
import re
from base64 import b32encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from mail_outbox.envelope import Email
from mail_outbox.rendered import Rendered

SIGNATURE_CHARS = 16  # 80 bits
TAG = re.compile(rf'([1-9][0-9]{{0,18}})-([a-z2-7]{{{SIGNATURE_CHARS}}})')
LONGEST_ADDRESS_CHARS = 320
ADDRESS_IN_TEXT = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,128}@[A-Za-z0-9.-]{1,255}")


@dataclass(frozen=True, slots=True)
class ReturnPaths:
    """The addresses that reports come to.

    Attributes:
        address: The one without a tag.
        secrets: The first signs, all are known; none: e-mails have no return paths of their own.
    """

    address: str
    secrets: Sequence[str] = field(default=(), repr=False)

    @property
    def signs(self) -> bool:
        """Whether each e-mail has one of its own."""
        return bool(self.secrets)

    def of(self, email_id: int) -> str:
        """Return the envelope sender of an e-mail."""
        local, _, domain = self.address.rpartition('@')
        return f'{local}+{email_id}-{_signature(self.secrets[0], email_id)}@{domain}'

    def put_on(self, email: Email, rendered: Rendered) -> Rendered:
        """Return a message with it as envelope sender, unless the e-mail names one of its own."""
        if not self.signs or email.extras.envelope_from:
            return rendered
        envelope = rendered.envelope._replace(sender=self.of(email.id))
        return rendered._replace(envelope=envelope)

    def is_ours(self, address: str) -> bool:
        """Whether it is the address without a tag, or has one, whoever made that."""
        if len(address) > LONGEST_ADDRESS_CHARS:
            return False
        local, _, domain = address.lower().rpartition('@')
        own_local, _, own_domain = self.address.lower().rpartition('@')
        return domain == own_domain and (local == own_local or local.startswith(f'{own_local}+'))

    def is_plain(self, address: str) -> bool:
        """Whether it is the address without a tag."""
        return address.lower() == self.address.lower()

    def email_id(self, address: str) -> int | None:
        """Return the id that an address of ours names; None where nobody of us signed it."""
        if not self.is_ours(address) or self.is_plain(address):
            return None
        own_local = self.address.rpartition('@')[0]
        tag = TAG.fullmatch(address.lower().rpartition('@')[0][len(own_local) + 1 :])
        if tag is None:
            return None
        email_id, given = int(tag[1]), tag[2]
        if email_id >= 2**63:
            return None
        # All are compared, each in a time that does not tell how much fits.
        fits = [hmac.compare_digest(given, _signature(key, email_id)) for key in self.secrets]
        return email_id if any(fits) else None

    def first_email_id(self, texts: Iterable[str]) -> int | None:
        """Return the id of the first signed address in some header fields."""
        for text in texts:
            for address in ADDRESS_IN_TEXT.findall(text[:2000]):
                if (email_id := self.email_id(address)) is not None:
                    return email_id
        return None


def _signature(secret: str, email_id: int) -> str:
    digest = hmac.digest(secret.encode(), b'return-path %d' % email_id, sha256)
    return b32encode(digest)[:SIGNATURE_CHARS].decode().lower()
