"""What an OIDC provider may say, and what of it the desk believes."""

import asyncio
import contextlib
import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from settings import load_settings
from tests.conftest import wait_until
from tests.services.api_desk import open_desk
from web.auth.oidc import OidcProvider, OidcTerms
from web.auth.people import Role
from web.auth.provider import BegunLogin, name_in, role_in, seal, unseal
from web.place import PublicPlace

DESK = 'http://localhost'
SECRET = 'a secret of the desk'
ROLES = {'admins': Role.ADMINISTER, 'staff': Role.LOOK}


class Provider:
    """A provider that says what a test wants it to say."""

    def __init__(self):
        self.keys = [RSAKey.generate_key(2048, {'kid': 'one', 'use': 'sig'})]
        self.issuer = ''
        self.claims = {'groups': ['staff'], 'preferred_username': 'lena'}
        self.header = {'alg': 'RS256', 'kid': 'one'}
        self.discovery = {}
        self.user_info = {'sub': '1'}
        self.token_status = 200
        self.without_id_token = False
        self.asked = {}
        self.nonce = None
        self.app = Starlette(
            routes=[
                Route('/.well-known/openid-configuration', self._discover),
                Route('/keys', self._keys),
                Route('/token', self._token, methods=['POST']),
                Route('/me', self._me),
            ]
        )

    async def _discover(self, _):
        i = self.issuer
        return JSONResponse(
            {
                'issuer': i, 'authorization_endpoint': f'{i}/auth', 'token_endpoint': f'{i}/token',
                'jwks_uri': f'{i}/keys', 'userinfo_endpoint': f'{i}/me',
                'id_token_signing_alg_values_supported': ['RS256', 'HS256', 'none'],
            }
            | self.discovery
        )  # fmt: skip

    async def _keys(self, _):
        return JSONResponse({'keys': [key.as_dict(private=False) for key in self.keys]})

    async def _me(self, _):
        return JSONResponse(self.user_info)

    async def _token(self, request):
        self.asked = parse_qs((await request.body()).decode())
        if self.token_status != 200:
            return JSONResponse({'error': 'invalid_grant'}, self.token_status)
        answer = {'access_token': 'a', 'token_type': 'Bearer', 'expires_in': 60}
        return JSONResponse(answer if self.without_id_token else answer | {'id_token': self._id()})

    def _id(self):
        now = int(time.time())
        claims = {
            'iss': self.issuer, 'sub': '1', 'aud': 'desk', 'iat': now, 'exp': now + 60,
            'nonce': self.nonce, 'auth_time': now,
        } | self.claims  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.header['alg'] == 'none':
            return unsigned(claims)
        key = OctKey.import_key(SECRET) if self.header['alg'] == 'HS256' else self.keys[-1]
        return jwt.encode(self.header, claims, key)


def unsigned(claims):
    from base64 import urlsafe_b64encode  # noqa: PLC0415

    parts = [json.dumps(part).encode() for part in ({'alg': 'none'}, claims)]
    return '.'.join(urlsafe_b64encode(part).decode().rstrip('=') for part in parts) + '.'


@pytest.fixture
async def provider():
    found = Provider()
    config = uvicorn.Config(found.app, port=0, log_config=None, lifespan='off')
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    found.issuer = f'http://127.0.0.1:{port}'
    yield found
    server.should_exit = True
    await serving


@pytest.fixture
async def desk(env, provider):
    oidc = OidcProvider(OidcTerms(provider.issuer, 'desk', SECRET, ROLES))
    async with open_desk(env, provider=oidc, place=PublicPlace.of(DESK)) as desk:
        yield desk


async def begin(client, provider, path='/login/oidc?next=/mail'):
    """Go to the provider. Returns what it is asked."""
    answer = await client.get(path)
    assert answer.status_code == 303, answer.text
    asked = {n: v[0] for n, v in parse_qs(urlsplit(answer.headers['location']).query).items()}
    provider.nonce = asked['nonce']
    return asked


async def log_in(client, provider, **more):
    asked = await begin(client, provider)
    params = {'code': 'c', 'state': asked['state']} | more
    return await client.get('/login/oidc/back', params=params)


async def test_provider_is_asked_with_state_nonce_and_pkce_and_named_people_get_in(desk, provider):
    client = await desk.browser()
    asked = await begin(client, provider)
    assert asked['redirect_uri'] == f'{DESK}/login/oidc/back'
    assert (asked['response_type'], asked['code_challenge_method']) == ('code', 'S256')
    assert min(len(asked[name]) for name in ('state', 'nonce', 'code_challenge')) >= 20
    answer = await client.get('/login/oidc/back', params={'code': 'c', 'state': asked['state']})
    assert (answer.status_code, answer.headers['location']) == (303, '/mail')
    assert len(provider.asked['code_verifier'][0]) >= 43
    page = await client.get('/mail')
    assert 'lena <span class="soft">look' in page.text


@pytest.mark.parametrize(
    'claims',
    [{'nonce': 'another'}, {'nonce': None}, {'aud': 'another'}, {'aud': ['another'], 'azp': 'desk'},
     {'iss': 'https://evil.example'}, {'exp': int(time.time()) - 3600}, {'exp': None},
     {'iat': int(time.time()) + 3600}, {'sub': None}, {'azp': 'another'}],
    ids=str,
)  # fmt: skip
async def test_id_token_that_is_not_for_this_login_lets_nobody_in(desk, provider, pool, claims):
    provider.claims |= claims
    answer = await log_in(await desk.browser(), provider)
    assert answer.status_code == 403
    assert 'the provider did not let you in' in answer.text
    assert await pool.fetchval('SELECT count(*) FROM mail_desk_sessions') == 0


@pytest.mark.parametrize('alg', ['none', 'HS256'])
async def test_id_token_without_the_providers_signature_lets_nobody_in(desk, provider, alg):
    provider.header = {'alg': alg}
    assert (await log_in(await desk.browser(), provider)).status_code == 403


async def test_id_token_by_another_key_lets_nobody_in(desk, provider):
    published = provider.keys[0]
    provider.keys = [RSAKey.generate_key(2048, {'kid': 'one', 'use': 'sig'})]
    forged = provider.keys[0]
    provider.keys = [published]
    provider._id = lambda: jwt.encode(
        provider.header, {'iss': provider.issuer, 'sub': '1', 'aud': 'desk', 'iat': 1,
                          'exp': int(time.time()) + 60, 'nonce': provider.nonce}, forged,
    )  # fmt: skip
    assert (await log_in(await desk.browser(), provider)).status_code == 403


@pytest.mark.parametrize('seconds', [-100, 100])
async def test_clock_that_differs_by_less_than_two_minutes_keeps_nobody_out(
    desk, provider, seconds
):
    now = int(time.time()) + seconds
    provider.claims |= {'iat': now, 'exp': now + 30, 'auth_time': now}
    assert (await log_in(await desk.browser(), provider)).status_code == 303


async def test_new_key_of_the_provider_is_fetched(desk, provider):
    assert (await log_in(await desk.browser(), provider)).status_code == 303
    provider.keys.append(RSAKey.generate_key(2048, {'kid': 'two', 'use': 'sig'}))
    provider.header = {'alg': 'RS256', 'kid': 'two'}
    assert (await log_in(await desk.browser(), provider)).status_code == 303


async def test_answer_to_a_login_that_this_browser_did_not_begin_lets_nobody_in(desk, provider):
    client, other = await desk.browser(), await desk.browser()
    asked = await begin(other, provider)
    params = {'code': 'c', 'state': asked['state']}
    for cookie in (None, 'x.y', '.', 'eyJhIjoxfQ==.' + '0' * 64):
        if cookie is not None:
            client.cookies.set('desk-login', cookie)
        answer = await client.get('/login/oidc/back', params=params)
        assert answer.status_code == 403
        assert 'this browser did not begin this log-in' in answer.text
    await begin(client, provider)
    assert (await client.get('/login/oidc/back', params=params)).status_code == 403


@pytest.mark.parametrize(
    ('change', 'status', 'said'),
    [
        ({'token_status': 400}, 403, 'did not let you in'),
        ({'token_status': 503}, 403, 'did not let you in'),
        ({'without_id_token': True}, 403, 'did not let you in'),
        ({'claims': {}, 'user_info': {'sub': '2', 'groups': ['admins']}}, 403,
         'did not let you in'),
        ({'claims': {'groups': ['none of ours'], 'email': 'a@b'}}, 403, 'no role here'),
        ({'claims': {'groups': {'admins': 1}, 'preferred_username': 'lena'}}, 403, 'no role here'),
        ({'discovery': {'issuer': 'https://evil.example'}}, 503, 'does not answer'),
    ],
    ids=str,
)  # fmt: skip
async def test_provider_that_is_wrong_is_told_as_such(desk, provider, change, status, said):
    for name, value in change.items():
        setattr(provider, name, value)
    client = await desk.browser()
    if status == 503:
        answer = await client.get('/login/oidc')
    else:
        answer = await log_in(client, provider)
    assert answer.status_code == status
    assert said in answer.text


async def test_words_of_the_provider_are_shown_and_not_run(desk, provider):
    client = await desk.browser()
    asked = await begin(client, provider)
    said = {'error': 'access_denied', 'error_description': '<script>alert(1)</script>',
            'state': asked['state']}  # fmt: skip
    answer = await client.get('/login/oidc/back', params=said)
    assert answer.status_code == 403
    assert '<script>alert' not in answer.text
    assert '&lt;script&gt;' in answer.text


async def test_answer_of_another_provider_is_refused(desk, provider):
    answer = await log_in(await desk.browser(), provider, iss='https://evil.example')
    assert answer.status_code == 403


async def test_groups_of_the_user_info_give_the_role(desk, provider):
    provider.claims = {}
    provider.user_info = {'sub': '1', 'preferred_username': 'oscar', 'groups': 'staff admins'}
    client = await desk.browser()
    await log_in(client, provider)
    assert 'oscar <span class="soft">administer' in (await client.get('/mail')).text


async def test_who_logged_in_at_the_provider_long_ago_is_asked_again_there(desk, provider):
    provider.claims |= {'groups': ['admins'], 'auth_time': int(time.time()) - 3600}
    client = await desk.browser()
    await log_in(client, provider)
    assert (await client.get('/person')).headers['location'] == '/confirm?next=%2Fperson'
    assert '/login/oidc?again=1' in (await client.get('/confirm?next=/person')).text
    asked = await begin(client, provider, '/login/oidc?again=1&next=/person')
    assert (asked['prompt'], asked['max_age']) == ('login', '0')
    provider.claims |= {'auth_time': int(time.time())}
    answer = await client.get('/login/oidc/back', params={'code': 'c', 'state': asked['state']})
    assert answer.headers['location'] == '/person'
    assert (await client.get('/person')).status_code == 200


async def test_without_a_provider_there_is_no_such_path(env):
    async with open_desk(env) as desk:
        client = await desk.browser()
        for path in ('/login/oidc', '/login/oidc/back'):
            assert (await client.get(path)).status_code == 404
        assert 'Log in with' not in (await client.get('/login')).text


@pytest.mark.parametrize(
    ('claim', 'role'),
    [(['staff'], Role.LOOK), ('staff admins', Role.ADMINISTER), (['x'], None), (None, None),
     (7, None), ([7, None, {}], None), ({'admins': True}, None), ('', None)],
)  # fmt: skip
def test_role_is_the_highest_that_a_claim_gives(claim, role):
    assert role_in(claim, ROLES) == role
    assert role_in(claim, ROLES | {'*': Role.OPERATE}) == max(
        (role or Role.OPERATE, Role.OPERATE), key=list(Role).index
    )


def test_name_is_the_first_claim_that_can_be_shown():
    assert name_in({'a': '', 'b': '\x1b[31m', 'c': 7, 'd': ' lena '}, 'abcd') == 'lena'
    assert name_in({}, 'abcd') is None


def test_sealed_login_is_read_by_its_key_alone_and_for_ten_minutes(monkeypatch):
    begun = BegunLogin('s', 'n', 'v', '/mail', 'lena')
    sealed = seal(b'key', begun)
    assert unseal(b'key', sealed) == begun
    assert unseal(b'other', sealed) is None
    later = time.time() + 601
    monkeypatch.setattr(time, 'time', lambda: later)
    assert unseal(b'key', sealed) is None


COMPLETE = {
    'OIDC_ISSUER': 'https://id.example.com/realm', 'OIDC_CLIENT_ID': 'desk',
    'OIDC_CLIENT_SECRET': SECRET, 'OIDC_ROLES': 'a=look, b c=administer',
    'WEB_PUBLIC_URL': 'https://ops.example.com',
}  # fmt: skip


@pytest.mark.parametrize(
    ('changes', 'said'),
    [({'OIDC_CLIENT_ID': None}, 'OIDC_CLIENT_ID'), ({'WEB_PUBLIC_URL': None}, 'WEB_PUBLIC_URL'),
     ({'OIDC_ROLES': None}, 'OIDC_ROLES'), ({'OIDC_ROLES': 'admin'}, 'OIDC_ROLES'),
     ({'OIDC_ROLES': 'a=root'}, 'OIDC_ROLES'),
     ({'OIDC_ROLES': 'a=look,a=administer'}, 'OIDC_ROLES'), ({'OIDC_SCOPE': 'email'}, 'OIDC_SCOPE'),
     ({'OIDC_ISSUER': 'http://id.example.com'}, 'must be https')],
)  # fmt: skip
def test_settings_of_oidc_that_are_wrong_stop_the_start(env, monkeypatch, changes, said):
    for name, value in (env | COMPLETE | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=said):
        load_settings()


def test_settings_of_oidc_are_read(env, monkeypatch):
    for name, value in (env | COMPLETE).items():
        monkeypatch.setenv(name, value)
    assert load_settings().oidc_roles == {'a': 'look', 'b c': 'administer'}
