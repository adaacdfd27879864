"""The embedded servers and a worker, out of a checkout of this project, for an application's tests.

The wheel has neither: a worker is deployed, not installed. Everything runs in processes of the
checkout's own environment, so that an application's packages stay as they are.
"""

import email
import email.message
import email.policy
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STARTS_WITHIN_S = 90.0
STOPS_WITHIN_S = 20.0
POLL_S = 0.05
VARIABLE = 'MAIL_OUTBOX_CHECKOUT'
NEEDED = (
    'mail_stack needs a checkout of the mail worker with its environment: clone the repository, run'
    ' `make setup` in it, and name the directory by --mail-outbox-checkout, by mail_outbox_checkout'
    f' in the configuration of pytest, or in the variable {VARIABLE}'
)


class MailStackError(Exception):
    """The servers or the worker cannot be started; the message says what is missing."""


def checkout_at(given: str | None) -> Path:
    """Return the checkout to start from: the one given, else the one this module is part of.

    Raises:
        MailStackError: there is none, or `make setup` has not been run in it.
    """
    named = given or os.environ.get(VARIABLE)
    place = Path(named).expanduser() if named else Path(__file__).resolve().parents[1]
    if not (place / 'dev' / 'stack.py').is_file():
        why = f'{named} is no such checkout' if named else 'none was named'
        raise MailStackError(f'{why}: {NEEDED}')
    if not (place / '.venv' / 'bin' / 'arq').exists():
        raise MailStackError(f'{place} has no environment yet: {NEEDED}')
    return place.absolute()


@dataclass
class MailStack:
    """A running worker with its servers.

    Attributes:
        env: The variables that point an application at them: DATABASE_URL, ARQ_REDIS_URL ...
    """

    env: Mapping[str, str]
    _log: Path
    _first: int = field(default=0)

    @property
    def database_url(self) -> str:
        """Of PostgreSQL; the outbox is in it, and the application's tables may be."""
        return self.env['DATABASE_URL']

    @property
    def redis_url(self) -> str:
        """Of the Redis that the worker takes its jobs from."""
        return self.env['ARQ_REDIS_URL']

    def begin(self) -> None:
        """Leave out of `inbox` what has arrived by now."""
        self._first = len(self._entries())

    def inbox(self, recipient: str | None = None) -> list[email.message.EmailMessage]:
        """Return the messages that have arrived since the test began, for somebody or anybody."""
        return [
            self._message(entry)
            for entry in self._entries()[self._first :]
            if recipient is None or recipient in entry['rcpt_to']
        ]

    def wait_for(self, recipient: str, *, timeout_s: float = 30) -> email.message.EmailMessage:
        """Return the first message that arrives for somebody.

        Raises:
            AssertionError: none does in time; the message ends with what the worker said last.
        """
        end = time.monotonic() + timeout_s
        while not (found := self.inbox(recipient)):
            if time.monotonic() > end:
                said = self._log.read_text(errors='replace')[-2000:]
                raise AssertionError(
                    f'nothing arrived for {recipient} in {timeout_s:g} s; the worker said:\n{said}'
                )
            time.sleep(POLL_S)
        return found[0]

    def _entries(self) -> list[dict[str, Any]]:
        index = Path(self.env['INBOX_DIR']) / 'index.jsonl'
        written = index.read_bytes() if index.exists() else b''
        whole = written[: written.rfind(b'\n') + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def _message(self, entry: Mapping[str, Any]) -> email.message.EmailMessage:
        source = (Path(self.env['INBOX_DIR']) / entry['file']).read_bytes()
        found = email.message_from_bytes(source, policy=email.policy.default)
        assert isinstance(found, email.message.EmailMessage)  # noqa: S101 - by its policy
        return found


@contextmanager
def started(checkout: Path, directory: Path) -> Iterator[MailStack]:
    """Start the servers, make the tables, start a worker; stop them at the end.

    Args:
        directory: For logs and the variables.
    Raises:
        MailStackError: one of them does not start; the message ends with what it said.
    """
    programs = checkout / '.venv' / 'bin'
    inherited = {name: os.environ[name] for name in ('PATH', 'HOME', 'LANG') if name in os.environ}
    variables, log = directory / '.env', directory / 'worker.log'
    servers = [str(programs / 'python'), '-m', 'dev.stack', '--env-file', str(variables)]
    with _running(servers, checkout, inherited, directory / 'servers.log', until='ready'):
        env = inherited | _read_variables(variables)
        migrate = subprocess.run(  # noqa: S603 - the same
            [programs / 'python', '-m', 'db.migrate'],
            cwd=checkout, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if migrate.returncode:
            raise MailStackError(f'the tables cannot be made:\n{migrate.stdout}{migrate.stderr}')
        worker = [str(programs / 'arq'), 'worker.WorkerSettings']
        with _running(worker, checkout, env, log, until='worker.started'):
            yield MailStack(env, log)


@contextmanager
def _running(
    command: list[str], checkout: Path, env: Mapping[str, str], log: Path, *, until: str
) -> Iterator[None]:
    """Start a program and wait for its log to say so; stop it at the end."""
    with log.open('wb') as output:
        process = subprocess.Popen(  # noqa: S603 - of the checkout that the tests' owner names
            command, cwd=checkout, env=dict(env), stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + STARTS_WITHIN_S
        while until not in (said := log.read_text(errors='replace')):
            if process.poll() is not None or time.monotonic() > end:
                raise MailStackError(f'{" ".join(command)} did not start:\n{said[-2000:]}')
            time.sleep(POLL_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read_variables(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if not line.startswith('#'))
    pairs = (shlex.split(line)[0].partition('=') for line in lines if line)
    return {name: value for name, _, value in pairs}
