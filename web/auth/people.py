"""Visitors of the desk, and what they may do."""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from actions.tokens import ApiScope
from web.api.access import Principal

FRESH = timedelta(minutes=5)  # for so long nobody is asked again who it is


class Role(StrEnum):
    """What a person does at the desk; each includes the ones before it."""

    LOOK = 'look'
    OPERATE = 'operate'
    ADMINISTER = 'administer'


ROLE_SCOPES: Mapping[Role, frozenset[str]] = {
    Role.LOOK: frozenset({ApiScope.READ}),
    Role.OPERATE: frozenset({ApiScope.READ, ApiScope.OPERATE}),
    Role.ADMINISTER: frozenset({ApiScope.READ, ApiScope.OPERATE, ApiScope.ADMINISTER}),
}
WANTED_SCOPES: Mapping[Role, ApiScope] = {
    Role.LOOK: ApiScope.READ,
    Role.OPERATE: ApiScope.OPERATE,
    Role.ADMINISTER: ApiScope.ADMINISTER,
}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a page.

    Attributes:
        principal: None for nobody who has logged in.
        secret: What the cookie holds; the keys of forms are made of it.
        is_new: The cookie is to be set with the answer.
        by_proxy: A proxy names the person, so there is no log-out here.
        confirmed_at: When the person showed last who it is; None: nobody knows.
    """

    principal: Principal | None
    secret: str
    is_new: bool = False
    by_proxy: bool = False
    confirmed_at: datetime | None = None

    @property
    def form_key(self) -> str:
        """What each form carries: only a page that this browser was given has it (CSRF)."""
        digest = hmac.digest(self.secret.encode(), b'form', sha256)
        return base64.urlsafe_b64encode(digest[:24]).decode()

    def may(self, role: Role) -> bool:
        """Whether the person has this role."""
        return self.principal is not None and WANTED_SCOPES[role] in self.principal.scopes

    @property
    def is_confirmed(self) -> bool:
        """Whether the person showed lately who it is: for what cannot be taken back."""
        return self.confirmed_at is not None and datetime.now(UTC) - self.confirmed_at < FRESH

    @property
    def role(self) -> Role | None:
        """The highest role; None for nobody."""
        return next((role for role in reversed(Role) if self.may(role)), None)
