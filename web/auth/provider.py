"""People whom an OIDC provider names: the parts that need no library.

What a log-in has to remember until the browser comes back is in a cookie that is signed, so any
process of the desk may answer, and none holds anything.
"""

import base64
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

from db.desk_sessions import NamedPerson
from web.auth.people import ROLE_SCOPES, Role

BEGUN_S = 600  # to log in at the provider
LONGEST_NAME = 100
LONGEST_BEGUN = 3500  # browsers keep cookies of 4,096 bytes
EVERYBODY = '*'


@dataclass(frozen=True, slots=True)
class BegunLogin:
    """A log-in that is under way at the provider.

    Attributes:
        goes_on: The page to go on to.
        name: Who is to log in again; '' for anybody.
    """

    state: str
    nonce: str
    code_verifier: str
    goes_on: str
    name: str = ''


class IdentityProvider(Protocol):
    """Who asks people who they are."""

    name: str

    async def begin(self, back_to: str, goes_on: str, *, again: str = '') -> tuple[str, BegunLogin]:
        """Return where the browser goes, and what is remembered.

        Raises:
            RefusalError: 503: the provider does not answer.
        """

    async def finish(
        self, back_to: str, answer: Mapping[str, str], begun: BegunLogin
    ) -> NamedPerson:
        """Return who the provider says it is.

        Raises:
            RefusalError: 403: it says nobody who may look; 503: it does not answer.
        """

    async def logout_url(self, back_to: str) -> str | None:
        """Return where one logs out at the provider; None: nowhere, or it does not answer."""

    def seal(self, begun: BegunLogin) -> str:
        """Return what the cookie holds."""

    def unseal(self, text: str) -> BegunLogin | None:
        """Return what a cookie holds; None: it is not of ours, or old."""


def seal(key: bytes, begun: BegunLogin) -> str:
    """Return a log-in that is under way, signed."""
    document = json.dumps(asdict(begun) | {'until': int(time.time()) + BEGUN_S})
    text = base64.urlsafe_b64encode(document.encode()).decode()
    return f'{text}.{_mark(key, text)}'


def unseal(key: bytes, sealed: str) -> BegunLogin | None:
    """Return what seal was given, until BEGUN_S later; None for everything else."""
    text, _, mark = sealed[:LONGEST_BEGUN].partition('.')
    if not hmac.compare_digest(mark.encode(), _mark(key, text).encode()):
        return None
    document = json.loads(base64.urlsafe_b64decode(text))
    return BegunLogin(**document) if document.pop('until') >= time.time() else None


def _mark(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), sha256).hexdigest()


def role_in(claim: Any, roles: Mapping[str, Role]) -> Role | None:
    """Return the highest role that a claim gives.

    Args:
        claim: One word, several with blanks or in a list, or anything that a provider says.
        roles: By word; EVERYBODY's is everybody's.
    """
    words: Sequence[Any] = claim.split() if isinstance(claim, str) else claim
    given = {word for word in words if isinstance(word, str)} if isinstance(words, list) else set()
    found = {roles[word] for word in (*given, EVERYBODY) if word in roles}
    return next((role for role in reversed(Role) if role in found), None)


def name_in(claims: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of these claims that is a name to show; None: there is none."""
    for claim in names:
        name = claims.get(claim)
        if isinstance(name, str) and name.strip() and name.isprintable():
            return name.strip()[:LONGEST_NAME]
    return None


def person_named(name: str, role: Role, auth_time: Any, begun: BegunLogin) -> NamedPerson:
    """Return a person with a role.

    Args:
        auth_time: When the provider asked who it is, in seconds; None: it does not say, which
            counts as long ago.
    """
    is_number = isinstance(auth_time, int | float) and 0 <= auth_time < 1e11
    at = datetime.fromtimestamp(auth_time if is_number else 0, UTC)
    return NamedPerson(begun.name or name, sorted(ROLE_SCOPES[role]), at)
