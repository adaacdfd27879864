"""The operators' commands for tests: in this process, or as their user runs them."""

import asyncio
import functools
import io
import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from ops.__main__ import make_parser
from ops.answer import Answer
from ops.commands import COMMANDS
from ops.running import answer
from reporting.wording import as_json
from settings import Settings

ROOT = Path(__file__).parents[2]
SENDING = {
    'status': 'sending',
    'attempts': 1,
    'claimed_by': 'mail-7@host:42',
    'claim_token': uuid4(),
}


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.out)


class Typed(io.StringIO):
    """A terminal at which this was typed."""

    def isatty(self) -> bool:
        return True


async def ops(env: dict[str, str], *arguments: str) -> Finished:
    """`python -m ops ...` as a process, without a terminal."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        '-m',
        'ops',
        *arguments,
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )
    out, err = await process.communicate()
    return Finished(process.returncode or 0, out.decode(), err.decode())


async def run(env: dict[str, str], *arguments: str) -> Answer:
    """The same without a process: the answer before it is printed."""
    settings = Settings(
        _env_file=None,
        database_url=env['DATABASE_URL'],
        arq_redis_url=env['ARQ_REDIS_URL'],
        mongodb_url=env['MONGODB_URL'] or None,
        mongodb_database=env['MONGODB_DATABASE'],
        mongodb_timeout_s=float(env.get('MONGODB_TIMEOUT_S', '5')),
    )
    options = make_parser().parse_args(arguments)
    command = COMMANDS[options.command].load(options.command)
    return await answer(settings, command, options)


def as_document(given: Answer) -> dict[str, Any]:
    """What --json would print, read back."""
    return json.loads(as_json(given.document))


def rendered(command: str, given: Answer) -> str:
    """The tables an operator sees."""
    console = Console(file=io.StringIO(), width=300, markup=False, highlight=False, emoji=False)
    COMMANDS[command].load(command).render(given.document, console)
    return console.file.getvalue()


async def insert(pool: Any, **columns: Any) -> int:
    """Insert an e-mail; values that begin with `sql:` are expressions."""
    columns = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello.'} | columns
    if columns.get('status') == 'sending':
        columns = (
            SENDING
            | {'claimed_at': 'sql:now()', 'lease_expires_at': "sql:now() + interval '20 s'"}
            | columns
        )
    plain = {name: value for name, value in columns.items() if not str(value).startswith('sql:')}
    values = [
        f'${list(plain).index(name) + 1}' if name in plain else value.removeprefix('sql:')
        for name, value in columns.items()
    ]
    sql = (
        f'INSERT INTO outbound_emails ({", ".join(columns)}) VALUES ({", ".join(values)}) '
        'RETURNING id'
    )
    return await pool.fetchval(sql, *plain.values())


@functools.cache
def _taken() -> socket.socket:
    taken = socket.socket()
    taken.bind(('127.0.0.1', 0))
    return taken


def closed_port() -> int:
    """A loopback port where nobody listens, nor will: we have it, and do not."""
    return _taken().getsockname()[1]


async def statuses(pool: Any) -> dict[int, str]:
    return {
        row['id']: row['status']
        for row in await pool.fetch('SELECT id, status FROM outbound_emails')
    }
