"""Type checkers find the mistakes that an application can make with mail_outbox, and no others."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
# What a line is to be accused of stands at its end: `#! ` and a word of both checkers.
SAMPLE = """
from typing import assert_type

import asyncpg
import psycopg
from django.db import connection as django  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from mail_outbox import (
    Attempt, EmailStatus, EmailValues, NewEmail, attempts, queue_email, queue_emails, status,
    suppressed_recipients,
)
from mail_outbox.fastapi import Outbox, SyncOutbox


async def awaited(
    session: AsyncSession,
    connection: AsyncConnection,
    scoped: async_scoped_session[AsyncSession],
    of_psycopg: psycopg.AsyncConnection,
    of_asyncpg: 'asyncpg.Connection[asyncpg.Record]',
    pool: 'asyncpg.Pool[asyncpg.Record]',
    outbox: Outbox,
) -> None:
    await queue_email(pool, recipient='a@example.com')  #! overload
    async with pool.acquire() as acquired:
        await queue_email(acquired, recipient='a@example.com')
    await outbox.queue_email(NewEmail(recipient='a@example.com'))
    await outbox.queue_email(recipient='a@example.com', subject='s')
    await outbox.queue_email(recipient='a@example.com', priority='urgent')  #! argument
    await outbox.queue_email()  #! overload
    for conn in (session, connection, of_psycopg, of_asyncpg):
        assert_type(await queue_email(conn, recipient='a@example.com', subject='s'), int)
    assert_type(await queue_email(scoped, recipient='a@example.com', subject='s'), int)
    assert_type(await queue_emails(session, [NewEmail(recipient='a@example.com')]), list[int])
    assert_type(await status(session, 5), EmailStatus | None)
    assert_type(await attempts(session, 5), list[Attempt])
    queue_email(session, recipient='a@example.com')  #! used
    await queue_email(session, recipient='a@example.com', priority='urgent')  #! overload
    await queue_email(session, recipent='a@example.com')  #! overload
    await queue_email(session, recipient='a@example.com', user_id=session)  #! overload
    await queue_emails(session, [{'recipient': to, 'subject': to} for to in ('a@example.com',)])
    await queue_emails(session, [{'recipent': 'a@example.com'}])  #! dict[str, str]
    await queue_emails(session, [{'recipient': 'a', 'priority': 'urgent'}])  #! dict[str, str]


def not_awaited(
    session: Session,
    connection: Connection,
    scoped: scoped_session[Session],
    of_psycopg: psycopg.Connection,
    engine: Engine,
    outbox: SyncOutbox,
) -> None:
    queue_email(engine, recipient='a@example.com')  #! overload
    outbox.queue_email(NewEmail(recipient='a@example.com'))
    outbox.queue_email(recipent='a@example.com')  #! overload
    for conn in (session, connection, scoped, of_psycopg):
        assert_type(queue_email(conn, recipient='a@example.com', subject='s'), int)
    queue_email(django, recipient='a@example.com', subject='s')
    assert_type(queue_emails(session, [{'recipient': 'a@example.com'}]), list[int])
    assert_type(status(session, 5), EmailStatus | None)
    assert_type(suppressed_recipients(session, 'a@example.com'), dict[str, str])
    queue_email(5, recipient='a@example.com')  #! overload
    queue_email(session)  #! overload


NewEmail(recipient='a@example.com', priority='high', cc=['b@example.com'])
NewEmail(recipient='a@example.com', priority='urgent')  #! urgent
NewEmail(recipent='a@example.com')  #! recipent
NewEmail(subject='s')  #! recipient
good: EmailValues = {'recipient': 'a@example.com', 'priority': 'low', 'headers': {'X-A': 'b'}}
bad: EmailValues = {'recipient': 'a@example.com', 'priority': 'urgent'}  #! urgent
mistyped: EmailValues = {'recipent': 'a@example.com'}  #! recip
"""
EXPECTED = {
    number: found[1]
    for number, line in enumerate(SAMPLE.splitlines(), 1)
    if (found := re.search('#! (.*)', line))
}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / 'sample.py'
    path.write_text(SAMPLE)
    return path


def test_mypy_finds_them(sample: Path, tmp_path: Path) -> None:
    command = [BIN / 'mypy', '--strict', '--config-file=', '--no-error-summary']
    said = subprocess.run(
        [*command, '--cache-dir', tmp_path / 'cache', '--hide-error-context', sample],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    compare(re.findall(r'sample\.py:(\d+): error: (.*)', said.stdout), said.stdout + said.stderr)


def test_pyright_finds_them(sample: Path, tmp_path: Path) -> None:
    (tmp_path / 'pyrightconfig.json').write_text(
        json.dumps(
            {
                'typeCheckingMode': 'standard',
                'reportUnusedCoroutine': 'error',
                'extraPaths': [str(ROOT)],
                'include': ['sample.py'],
            }
        )
    )
    said = subprocess.run(
        [BIN / 'basedpyright', '--pythonpath', sys.executable, '--outputjson', '-p', tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(said.stdout)['generalDiagnostics']
    errors = [entry for entry in told if entry['severity'] == 'error']
    compare(
        [(str(entry['range']['start']['line'] + 1), entry['message']) for entry in errors],
        said.stdout,
    )


def compare(errors: list[tuple[str, str]], said: str) -> None:
    by_line: dict[int, str] = {}
    for line, message in errors:
        by_line[int(line)] = f'{by_line.get(int(line), "")} {message.lower()}'
    assert by_line.keys() == EXPECTED.keys(), said
    assert [
        (line, wanted, by_line[line])
        for line, wanted in EXPECTED.items()
        if wanted not in by_line[line]
    ] == []
