"""The desk below a path of Debian's nginx, as docs/desk.md sets it up."""

import asyncio
import shutil
import socket

import pytest

from actions.tokens import create_token
from db.audit import Actor
from dev.screenshots import SCOPES, chromium
from reporting.servers import ServerAddresses, Servers
from tests.browser.conftest import Person
from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import insert, statuses
from tests.services.test_web_process import place_of

PREFIX = '/mail-desk'
# A directory that nginx's own user reaches, and no file of the system's.
CONFIG = """
daemon off; pid {directory}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
{location}
  }}
}}
"""


def documented_location(desk):
    """Return what docs/desk.md says to write, for a desk that listens elsewhere."""
    text = (ROOT / 'docs/desk.md').read_text()
    block = text.partition('```nginx\n')[2].partition('```')[0]
    assert 'http://127.0.0.1:8625/' in block
    return block.replace('http://127.0.0.1:8625', desk)


@pytest.fixture
async def nginx(start_web, tmp_path):
    """The address of the desk below its path of a running nginx."""
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]
    address = f'http://127.0.0.1:{port}{PREFIX}'
    web = start_web(WEB_PORT='0', WEB_PUBLIC_URL=address, WEB_TRUSTED_PROXIES='127.0.0.1')
    desk = place_of(await web.hears('READY=1'))
    config = tmp_path / 'nginx.conf'
    config.write_text(
        CONFIG.format(directory=tmp_path, port=port, location=documented_location(desk))
    )
    binary = shutil.which('nginx', path='/usr/sbin:/usr/bin')
    assert binary, 'nginx is missing: apt-get install nginx-light'
    process = await asyncio.create_subprocess_exec(binary, '-c', str(config))

    async def listens():
        try:
            _, writer = await asyncio.open_connection('127.0.0.1', port)
        except OSError:
            assert process.returncode is None
            return False
        writer.close()
        return True

    await wait_until(listens)
    yield address
    process.terminate()
    await process.wait()


async def test_desk_works_below_a_path_of_nginx(env, nginx, pool):
    email_id = await insert(pool, recipient='greta@example.com', status='failed', attempts=5)
    servers = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    created = await create_token(servers, 'lena', SCOPES, by=Actor('setup', 'tests'))
    await servers.close()
    async with chromium() as browser:
        person = Person(browser, nginx, created.token)
        page = await person.page()
        assert {cookie['path'] for cookie in await page.context.cookies()} == {PREFIX}
        await page.wait_for_selector('.tile:has-text("dead") b:text-is("1")')
        await insert(pool, status='failed', attempts=5)
        await page.wait_for_selector('.tile:has-text("dead") b:text-is("2")')  # by the stream
        await page.click('nav >> text=Mail')
        await page.keyboard.press('/')
        await page.keyboard.type('greta@example.com')
        await page.keyboard.press('Enter')
        await page.click('.to >> text=greta@example.com')
        await page.click('text=Send again')
        await page.click('button.main')
        await page.wait_for_selector('text=1 e-mail changed')
        await page.click('text=Log out')
        await page.wait_for_url(f'{nginx}/login')
        assert person.complaints == []
    assert (await statuses(pool))[email_id] == 'pending'
    assert await pool.fetchval(
        "SELECT bool_and(origin = '127.0.0.1') FROM mail_audit WHERE actor = 'lena'"
    )
