"""Who logs in at the desk by an OIDC provider."""

import importlib.util
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from configuration.lists import named_once
from configuration.variables import Variables
from engine.urls import is_loopback

DeskRole = Literal['look', 'operate', 'administer']
EXAMPLE = 'OIDC_ROLES=mail-admins=administer,support=operate'


class OidcVariables(Variables):
    """Log-in at the desk by OIDC: Keycloak, Entra, Okta, Google, authentik and others."""

    oidc_issuer: str | None = Field(
        default=None,
        pattern=r'^https?://[^\s?#@]+$',
        description='The provider, as its discovery document names it; needs WEB_PUBLIC_URL, below '
        'which /login/oidc/back is the redirect URI, and the packages of the group `oidc`.',
    )
    oidc_client_id: str | None = Field(
        default=None, min_length=1, description='What the provider knows the desk by.'
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None, min_length=8, description='Its secret there.'
    )
    oidc_roles: Annotated[dict[str, DeskRole], NoDecode] = Field(
        default={},
        description='Which word of OIDC_ROLES_CLAIM gives which role: '
        'mail-admins=administer,support=operate; * is everybody. Who has none stays outside.',
    )
    oidc_roles_claim: str = Field(
        default='groups', min_length=1, description='Claim of the ID token, or of the user info.'
    )
    oidc_name_claim: str = Field(
        default='preferred_username',
        min_length=1,
        description='Claim with the name that the audit shows; without it `email`, then `sub`.',
    )
    oidc_scope: str = Field(
        default='openid profile email',
        pattern=r'^(.* )?openid( .*)?$',
        description='What is asked for; some providers give groups for a scope of their own.',
    )

    @field_validator('oidc_roles', mode='before')
    @classmethod
    def _split_roles(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = (part.strip().rpartition('=') for part in value.split(',') if part.strip())
        return named_once(parts, f'words, each once, with a role behind =: {EXAMPLE}')

    @model_validator(mode='after')
    def _check_oidc(self) -> Self:
        if self.oidc_issuer is None:
            return self
        parts = urlsplit(self.oidc_issuer)
        if parts.scheme == 'http' and not is_loopback(parts.hostname or ''):
            raise ValueError('OIDC_ISSUER must be https, but for one on this machine')
        wanted = {
            'OIDC_CLIENT_ID': self.oidc_client_id,
            'OIDC_CLIENT_SECRET': self.oidc_client_secret,
            'OIDC_ROLES': self.oidc_roles,
            'WEB_PUBLIC_URL': getattr(self, 'web_public_url', None),
        }
        missing = [name for name, value in wanted.items() if not value]
        if missing:
            raise ValueError(f'OIDC_ISSUER needs {" and ".join(missing)}')
        return self


def check_packages() -> None:
    """Refuse to start without what OIDC needs.

    Raises:
        SystemExit: it names what to install.
    """
    missing = [n for n in ('authlib', 'httpx2') if importlib.util.find_spec(n) is None]
    if missing:
        raise SystemExit(
            f'web: OIDC_ISSUER needs {" and ".join(missing)}, not installed: '
            'pip install "authlib>=1.9,<2" "httpx2>=2.16,<3" (the dependency group `oidc`)'
        )
