"""Log in at the desk by a real OIDC provider, in a real browser."""

import asyncio
import json
import shutil
import socket
from pathlib import Path

import pytest

from dev.screenshots import chromium
from tests.browser.conftest import Person
from tests.conftest import wait_until
from tests.node import INSTALL, NODE
from tests.services.ops_desk import insert
from tests.services.test_web_process import place_of

SOURCE = Path(__file__).with_name('oidc')
GROUPS = {'lena': ['mail-admins', 'staff'], 'oscar': ['staff'], 'mallory': []}


@pytest.fixture(scope='session')
def oidc_packages(tmp_path_factory):
    """A directory with the provider's program and its packages."""
    directory = tmp_path_factory.mktemp('oidc')
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copy(path, directory / path.name)

    async def install():
        process = await asyncio.create_subprocess_exec(*INSTALL, cwd=directory)
        assert await process.wait() == 0

    asyncio.run(install())
    return directory


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as probe:
        return probe.getsockname()[1]


class RunningProvider:
    """The provider's process, which can be stopped and started again."""

    def __init__(self, directory, desk):
        self.port = free_port()
        self.issuer = f'http://127.0.0.1:{self.port}'
        self._directory = directory
        self._env = {'PORT': str(self.port), 'DESK': desk, 'GROUPS': json.dumps(GROUPS)}
        self._process = None

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            NODE, 'provider.mjs', cwd=self._directory, env=self._env
        )

        async def listens():
            try:
                _, writer = await asyncio.open_connection('127.0.0.1', self.port)
            except OSError:
                assert self._process.returncode is None
                return False
            writer.close()
            return True

        await wait_until(listens)

    async def stop(self):
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def desk_and_provider(start_web, oidc_packages):
    address = f'http://127.0.0.1:{free_port()}'
    provider = RunningProvider(oidc_packages, address)
    web = start_web(
        WEB_PORT=address.rpartition(':')[2], WEB_PUBLIC_URL=address, OIDC_ISSUER=provider.issuer,
        OIDC_CLIENT_ID='desk', OIDC_CLIENT_SECRET='a secret of the desk',
        OIDC_ROLES='mail-admins=administer,staff=look',
    )  # fmt: skip
    assert place_of(await web.hears('READY=1')) == address
    await provider.start()
    async with chromium() as browser:
        yield Person(browser, address, None), provider
    await provider.stop()


async def at_provider(page, name):
    """Log in at the provider, and agree."""
    await page.fill('input[name=login]', name)
    await page.fill('input[name=password]', 'anything')
    await page.click('button[type=submit]')
    await page.wait_for_load_state()
    if await page.locator('text=Continue').count():
        await page.click('button:has-text("Continue")')


async def test_person_logs_in_is_asked_again_before_erasing_and_logs_out(desk_and_provider, pool):
    person, _ = desk_and_provider
    await insert(pool, recipient='anna@example.com')
    page = await person.page(logged_in=False)
    await page.goto(f'{person.address}/mail?within=1h')
    await page.click('text=Log in with 127.0.0.1')
    await at_provider(page, 'lena')
    await page.wait_for_url(f'{person.address}/mail?within=1h')
    assert await page.inner_text('.who span') == 'lena administer'
    assert 'anna@example.com' in await page.inner_text('main')
    session = await pool.fetchrow('SELECT person, scopes, token_id FROM mail_desk_sessions')
    assert (session['person'], session['token_id']) == ('lena', None)
    assert set(session['scopes']) == {'read', 'operate', 'administer'}
    await pool.execute("UPDATE mail_desk_sessions SET confirmed_at = now() - interval '6 min'")

    async def is_asked():
        await page.goto(f'{person.address}/person')
        return 'Is it you?' in await page.inner_text('main')

    await wait_until(is_asked)
    await page.click('text=Log in again')
    await at_provider(page, 'lena')  # though its own session is there
    await page.wait_for_url(f'{person.address}/person')
    await page.fill('#address', 'anna@example.com')
    await page.fill('#reason', 'asked')
    await page.click('text=See what would be erased')
    await page.click('text=Erase it')
    await page.wait_for_selector('text=1 e-mail to this address alone erased')
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0
    await page.click('text=Log out')
    await page.click('text=log out there, too')
    await page.wait_for_load_state()
    await page.click('button:has-text("Yes")')
    await page.wait_for_url(f'{person.address}/login**')
    actors = await pool.fetch("SELECT DISTINCT actor FROM mail_audit WHERE action <> 'x'")
    assert [row['actor'] for row in actors] == ['lena']


async def test_another_person_cannot_confirm_and_groups_give_the_role(desk_and_provider, pool):
    person, _ = desk_and_provider
    page = await person.page(logged_in=False)
    await page.goto(f'{person.address}/login')
    await page.click('text=Log in with 127.0.0.1')
    await at_provider(page, 'oscar')
    await page.wait_for_url(f'{person.address}/')
    assert await page.inner_text('.who span') == 'oscar look'
    await page.goto(f'{person.address}/login/oidc?again=1&next=/mail')
    await at_provider(page, 'lena')
    await page.wait_for_selector('text=lena logged in, not oscar')
    other = await person.page(logged_in=False)
    await other.goto(f'{person.address}/login')
    await other.click('text=Log in with 127.0.0.1')
    await at_provider(other, 'mallory')
    await other.wait_for_selector('text=mallory has no role here')
    assert await pool.fetchval('SELECT count(*) FROM mail_desk_sessions') == 1


async def test_provider_that_is_away_is_told_and_works_once_it_is_back(desk_and_provider):
    person, provider = desk_and_provider
    await provider.stop()
    page = await person.page(logged_in=False)
    await page.goto(f'{person.address}/login')
    await page.click('text=Log in with 127.0.0.1')
    assert 'does not answer as an OIDC provider does' in await page.inner_text('[role=alert]')
    assert await page.locator('#token').count() == 1
    await provider.start()
    await page.click('text=Log in with 127.0.0.1')
    await at_provider(page, 'lena')
    await page.wait_for_url(f'{person.address}/')
