"""One who is measured: how it is started, and how it is given its e-mails all at once."""

import asyncio
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from arq.connections import ArqRedis

from bench.outbox import Outbox, RunFailed
from bench.relay import Relay
from dev.processes import Command
from dev.stack import Stack

ROOT = Path(__file__).parent.parent
HELD_QUEUE = 'bench:held'
ENQUEUE_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Site:
    """Where a run takes place.

    Attributes:
        settings: Environment variables of our worker that differ from the defaults.
    """

    stack: Stack
    outbox: Outbox
    redis: ArqRedis
    relay: Relay
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)


class Contender(ABC):
    """One way to send the e-mails.

    Attributes:
        key: Its name on the command line.
        title: Its name in the table.
        warm_up_emails: Sent before the clock starts, so that every process has its connections.
        settle_s: How long the worker is left alone between the two.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    warm_up_emails: ClassVar[int] = 50
    settle_s: ClassVar[float] = 0.0

    async def prepare(self, outbox: Outbox) -> None:  # noqa: B027 - most need nothing
        """Change the fresh database where this contender needs it."""

    @abstractmethod
    def command(self, site: Site) -> Command:
        """Say how the worker is started."""

    @abstractmethod
    async def hold(self, site: Site, ids: Sequence[int]) -> None:
        """Queue what belongs to these rows, where the worker does not see it yet."""

    @abstractmethod
    async def release(self, site: Site) -> None:
        """Let the worker see it, with one command to Redis."""

    async def check(self, site: Site, ids: Sequence[int]) -> None:  # noqa: B027 - the rows are checked for all
        """Raise RunFailed when what this contender promises beyond `sent` rows is missing."""


async def run_to_end(command: list[str], environment: dict[str, str], stdin: bytes) -> bytes:
    """Run a helping program; return what it printed.

    Raises:
        RunFailed: it failed; with its last words.
    """

    def call() -> subprocess.CompletedProcess[bytes]:
        limit_s = ENQUEUE_DEADLINE_S
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )

    done = await asyncio.to_thread(call)
    if done.returncode:
        raise RunFailed(
            f'{command[2]} ended with status {done.returncode}:\n{done.stderr.decode()[-2000:]}'
        )
    return done.stdout
