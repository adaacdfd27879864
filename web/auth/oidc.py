"""OIDC by Authlib: the code flow with state, nonce and PKCE. Imported where OIDC_ISSUER is set."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import httpx2
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import StarletteOAuth2App
from joserfc.errors import JoseError

from db.desk_sessions import NamedPerson
from web.api.problem import Refusal, RefusalError
from web.auth import provider
from web.auth.people import Role
from web.auth.provider import BegunLogin, name_in, person_named, role_in

log = structlog.get_logger()

ANSWER_WITHIN_S = 5.0
CLOCKS_DIFFER_S = 120  # the provider's and ours, at most
# What is signed by nobody, or with the client's own secret, proves nothing.
NO_SIGNATURE = ('none', 'HS')


@dataclass(frozen=True, slots=True)
class OidcTerms:
    """What the provider knows us by, and what its word gives.

    Attributes:
        claim: Has the words that roles maps.
        names: Claims that may hold a person's name, the best first.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    roles: Mapping[str, Role] = field(default_factory=dict)
    claim: str = 'groups'
    names: tuple[str, ...] = ('preferred_username', 'email', 'sub')
    scope: str = 'openid profile email'


class OidcProvider:
    """A provider that is asked when somebody logs in, and not before."""

    def __init__(self, terms: OidcTerms) -> None:
        self._terms = terms
        self.name = terms.issuer
        self._key = sha256(b'desk log-in' + terms.client_secret.encode()).digest()
        self._app = StarletteOAuth2App(
            framework=None,
            name='desk',
            client_id=terms.client_id,
            client_secret=terms.client_secret,
            server_metadata_url=f'{terms.issuer.rstrip("/")}/.well-known/openid-configuration',
            client_kwargs={
                'scope': terms.scope, 'code_challenge_method': 'S256', 'timeout': ANSWER_WITHIN_S,
                'leeway': 0,  # Keycloak's access tokens last a minute, and are used at once
            },
        )  # fmt: skip

    async def _metadata(self) -> Mapping[str, Any]:
        """Return what the provider says of itself, asked for once.

        Raises:
            RefusalError: 503.
        """
        app = self._app
        try:
            found = await app.load_server_metadata()
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise RefusalError(self._away(error)) from error
        if found.get('issuer') != self._terms.issuer:
            app.server_metadata.clear()
            raise RefusalError(self._away(f'it calls itself {str(found.get("issuer"))[:200]!a}'))
        signed = [
            word
            for word in found.get('id_token_signing_alg_values_supported') or ['RS256']
            if not word.startswith(NO_SIGNATURE)
        ]
        app.server_metadata['id_token_signing_alg_values_supported'] = signed
        metadata: Mapping[str, Any] = app.server_metadata
        return metadata

    def _away(self, error: object) -> Refusal:
        log.warning('web.provider_away', issuer=self._terms.issuer, error=str(error)[:500])
        return Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE, 'provider-away',
            f'{self._terms.issuer} does not answer as an OIDC provider does',
            'try again in a minute, or log in with a token; see OIDC_ISSUER, and the log',
        )  # fmt: skip

    async def begin(self, back_to: str, goes_on: str, *, again: str = '') -> tuple[str, BegunLogin]:
        """Return where the browser goes, and what is remembered; again: who is asked anew."""
        await self._metadata()
        more = {'prompt': 'login', 'max_age': '0'} if again else {}
        asked = await self._app.create_authorization_url(
            back_to, state=secrets.token_urlsafe(24), **more
        )
        begun = BegunLogin(asked['state'], asked['nonce'], asked['code_verifier'], goes_on, again)
        return asked['url'], begun

    async def finish(
        self, back_to: str, answer: Mapping[str, str], begun: BegunLogin
    ) -> NamedPerson:
        """Return who the provider says it is."""
        metadata = await self._metadata()
        if 'error' in answer or 'code' not in answer:
            raise RefusalError(_refused(answer.get('error_description') or answer.get('error', '')))
        if answer.get('iss', self._terms.issuer) != self._terms.issuer:  # RFC 9207
            raise RefusalError(_refused('the answer is of another provider'))
        try:
            claims = await self._claims(back_to, answer['code'], begun, metadata)
        except (httpx2.TransportError, OSError) as error:
            raise RefusalError(self._away(error)) from error
        except (AuthlibBaseError, JoseError, httpx2.HTTPError, RuntimeError, ValueError) as error:
            log.warning('web.login_refused', issuer=self._terms.issuer, error=str(error)[:500])
            raise RefusalError(_refused(f'{type(error).__name__}: see the log')) from error
        return self._person(claims, begun)

    async def _claims(
        self, back_to: str, code: str, begun: BegunLogin, metadata: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        app, terms = self._app, self._terms
        token = await app.fetch_access_token(back_to, code=code, code_verifier=begun.code_verifier)
        found = await app.parse_id_token(
            token, begun.nonce, leeway=CLOCKS_DIFFER_S,
            claims_options={
                'iss': {'essential': True, 'values': [terms.issuer]},
                'aud': {'essential': True, 'values': [terms.client_id]},
            },
        )  # fmt: skip
        if found is None:
            raise ValueError('there is no ID token')
        claims = dict(found)
        is_more_wanted = terms.claim not in claims or name_in(claims, terms.names[:1]) is None
        if is_more_wanted and 'userinfo_endpoint' in metadata:
            told = await app.userinfo(token=token)
            if told.get('sub') != claims['sub']:
                raise ValueError('the user info is about somebody else')
            claims = dict(told) | claims
        return claims

    def _person(self, claims: Mapping[str, Any], begun: BegunLogin) -> NamedPerson:
        terms = self._terms
        name = name_in(claims, terms.names)
        if name is None:
            raise RefusalError(_refused(f'none of {", ".join(terms.names)} is a name'))
        if begun.name not in {'', name}:
            raise RefusalError(_refused(f'{name} logged in, not {begun.name}'))
        role = role_in(claims.get(terms.claim), terms.roles)
        if role is None:
            raise RefusalError(
                Refusal(
                    HTTPStatus.FORBIDDEN, 'no-role', f'{name} has no role here',
                    f'OIDC_ROLES gives one for a word of the claim {terms.claim}',
                )
            )  # fmt: skip
        return person_named(name, role, claims.get('auth_time'), begun)

    async def logout_url(self, back_to: str) -> str | None:
        """Return where one logs out at the provider, if it has a place for it."""
        try:
            if 'end_session_endpoint' not in await self._metadata():
                return None
        except RefusalError:
            return None
        made = await self._app.create_logout_url(back_to, client_id=self._terms.client_id)
        url: str = made['url']
        return url

    def seal(self, begun: BegunLogin) -> str:
        """Return what the cookie holds."""
        return provider.seal(self._key, begun)

    def unseal(self, text: str) -> BegunLogin | None:
        """Return what a cookie holds; None: it is not of ours, or old."""
        return provider.unseal(self._key, text)


def _refused(why: str) -> Refusal:
    said = ''.join(filter(str.isprintable, why))[:300] or 'it says no more'
    return Refusal(
        HTTPStatus.FORBIDDEN, 'login-refused', f'the provider did not let you in: {said}',
        'log in again',
    )  # fmt: skip
