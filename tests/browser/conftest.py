"""The desk as a person has it: Debian's Chromium, the real server, a real worker.

`.ci/run` installs the browser and runs these; one that is missing fails the run.
"""

import asyncio
import shutil
from pathlib import Path

import pytest

from actions.tokens import create_token
from db.audit import Actor
from dev.screenshots import SCOPES, chromium, log_in
from reporting.servers import ServerAddresses, Servers
from tests.node import INSTALL
from tests.services.test_web_process import place_of, start_web

__all__ = ['start_web']  # a fixture

# A browser tells of each script of a mail that it did not run.
NOT_RUN = 'Blocked script execution'
AXE = Path(__file__).with_name('axe')


class Person:
    """Somebody with a browser, and what the browser complained of."""

    def __init__(self, browser, address, token):
        self.browser = browser
        self.address = address
        self.token = token
        self.complaints = []

    async def page(self, *, logged_in=True, **options):
        """Open a window; options are those of Playwright's new_context."""
        context = await self.browser.new_context(
            **{'viewport': {'width': 1280, 'height': 800}} | options
        )
        page = await context.new_page()
        page.set_default_timeout(30_000)
        page.on('console', self._note)
        page.on('pageerror', lambda error: self.complaints.append(str(error)))
        if logged_in:
            await log_in(page, self.address, self.token)
        return page

    def _note(self, said):
        if NOT_RUN not in said.text:
            self.complaints.append(f'{said.type}: {said.text}')


@pytest.fixture
async def person(env, start_web):
    """A person who has logged in, and no message on any console at the end."""
    web = start_web(WEB_PORT='0')
    address = place_of(await web.hears('READY=1'))
    servers = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    created = await create_token(servers, 'lena', SCOPES, by=Actor('setup', 'tests'))
    await servers.close()
    async with chromium() as browser:
        person = Person(browser, address, created.token)
        yield person
        assert person.complaints == []


@pytest.fixture(scope='session')
def axe(tmp_path_factory):
    """axe-core's source, from the registry that npm has."""
    directory = tmp_path_factory.mktemp('axe')
    for name in ('package.json', 'package-lock.json'):
        shutil.copy(AXE / name, directory / name)

    async def install():
        process = await asyncio.create_subprocess_exec(*INSTALL, cwd=directory)
        assert await process.wait() == 0

    asyncio.run(install())
    return (directory / 'node_modules/axe-core/axe.min.js').read_text()
