"""Write screenshots of the desk's pages: `python -m dev.screenshots DIRECTORY`.

Both themes, a wide screen and a phone, on a stack of its own with dev.desk_content, by Debian's
Chromium (CHROMIUM=... names another). Whoever changes a page looks at them.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from playwright.async_api import Browser, Page, async_playwright

from actions.tokens import ApiScope, create_token
from db.audit import Actor
from db.migrate import migrate
from dev.desk_content import fill
from dev.stack import Stack
from reporting.servers import ServerAddresses, Servers

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get('CHROMIUM', '/usr/bin/chromium')
# --no-sandbox: root, as in CI, has none; every page is ours.
CHROMIUM_ARGUMENTS = ('--no-sandbox', '--disable-gpu', '--force-color-profile=srgb')
WIDTHS = {'wide': (1280, 800), 'phone': (390, 844)}
PAGES = {
    'overview': '/', 'mail': '/mail', 'dead': '/mail?status=dead', 'one': '',
    'content': '/content', 'recipient': '/recipient',
    'decide': '/decide?do=retry&of=all&status=dead',
    'workers': '/workers', 'relays': '/relays', 'duties': '/duties',
    'bounces': '/bounces', 'suppressions': '/suppressions', 'tokens': '/tokens',
    'audit': '/changes',
    'pause': '/act/pause?kind=relay&name=primary', 'privacy': '/person', 'confirm': '/confirm',
}  # fmt: skip
OF_ONE = ('one', 'content', 'recipient')
SCOPES = (ApiScope.READ, ApiScope.OPERATE, ApiScope.ADMINISTER)


@contextlib.contextmanager
def processes(stack: Stack, directory: Path) -> Iterator[str]:
    """Start a worker and the web server. Yields the desk's address."""
    env = {name: os.environ[name] for name in ('PATH', 'HOME') if name in os.environ}
    env |= stack.env | {'WEB_PORT': '0', 'LOG_FORMAT': 'json', 'PYTHONPATH': str(ROOT)}
    arq = str(Path(sys.executable).with_name('arq'))
    started = []
    log_path = directory / 'web.log'
    try:
        for command, path in (
            ([arq, 'worker.WorkerSettings'], directory / 'worker.log'),
            ([sys.executable, '-m', 'web'], log_path),
        ):
            with path.open('wb') as log:
                started.append(
                    subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=directory)
                )
        yield str(log_path)
    finally:
        for process in started:
            process.terminate()
            process.wait(20)


def address_in(log_path: str) -> str:
    """Wait for the web server. Returns its address.

    Raises:
        TimeoutError: it did not start.
    """
    ends_at = time.monotonic() + 60
    while not (found := re.search(r'"place": ?"(http[^"]+)"', Path(log_path).read_text())):
        if time.monotonic() > ends_at:
            raise TimeoutError('the web server did not start')
        time.sleep(0.2)
    return found[1]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        await browser.close()


async def log_in(page: Page, address: str, token: str) -> None:
    """Log in as a person does."""
    await page.goto(f'{address}/login')
    await page.fill('#token', token)
    await page.click('button.main')
    await page.wait_for_url(f'{address}/')


async def prepare(stack: Stack) -> tuple[str, int]:
    """Fill the stack's database. Returns a token, and the id of an e-mail that is dead."""
    conn = await asyncpg.connect(stack.postgres.url)
    try:
        await migrate(conn)
    finally:
        await conn.close()
    async with asyncpg.create_pool(stack.postgres.url, min_size=1, max_size=1) as pool:
        await fill(pool)
        email_id: int = await pool.fetchval(
            "SELECT max(id) FROM outbound_emails WHERE dead_reason = 'rejected'"
        )
    servers = Servers(ServerAddresses(stack.postgres.url, stack.env['ARQ_REDIS_URL']))
    created = await create_token(servers, 'lena', SCOPES, by=Actor('setup', 'here'))
    await servers.close()
    return created.token, email_id


@dataclass(frozen=True)
class Shown:
    """Where the desk is, and what is there to see."""

    address: str
    token: str
    email_id: int
    directory: Path


async def shoot(directory: Path, words: Sequence[str]) -> None:
    """Write the screenshots of these pages."""
    with tempfile.TemporaryDirectory() as scratch:
        async with Stack() as stack:
            token, email_id = await prepare(stack)
            with processes(stack, Path(scratch)) as log_path:
                shown = Shown(
                    await asyncio.to_thread(address_in, log_path), token, email_id, directory
                )
                async with chromium() as browser:
                    for theme, name in itertools.product(('light', 'dark'), WIDTHS):
                        await shoot_theme(browser, shown, words, theme, name)


async def shoot_theme(
    browser: Browser, shown: Shown, words: Sequence[str], theme: str, name: str
) -> None:
    """Write those of one theme and width."""
    width, height = WIDTHS[name]
    context = await browser.new_context(
        viewport={'width': width, 'height': height},
        color_scheme='dark' if theme == 'dark' else 'light',
    )
    page = await context.new_page()
    await page.goto(f'{shown.address}/login')
    if 'login' in words:
        await page.screenshot(path=shown.directory / f'login-{theme}-{name}.png')
    await log_in(page, shown.address, shown.token)
    for word in words:
        if word in PAGES:
            path = PAGES[word]
            of_one = f'/mail/{shown.email_id}{path}'
            await page.goto(shown.address + (of_one if word in OF_ONE else path))
            await page.screenshot(path=shown.directory / f'{word}-{theme}-{name}.png')
    await context.close()


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=Path)
    parser.add_argument('pages', nargs='*', metavar='PAGE', help=', '.join(['login', *PAGES]))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(shoot(options.directory, options.pages or ['login', *PAGES]))


if __name__ == '__main__':
    main()
