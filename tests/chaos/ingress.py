"""The SMTP ingress killed at each step of a message, PostgreSQL's sessions and workers ended.

Under load: nothing is lost after 250, and nothing is there twice but where a client got no answer.
"""

import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from dev.ports import free_port
from dev.processes import Command, spawn
from dev.watchdog import Watchdog
from tests.chaos.arena import SMTP_CONNECTIONS, Arena, Stage
from tests.chaos.fleet import ROOT
from tests.chaos.postgres_faults import END_SESSIONS_SQL
from tests.chaos.report import Row
from tests.chaos.waiting import until

CLIENTS, WORKERS = 8, 2
ANSWER_S, AGAIN_S = 30.0, 0.1
BETWEEN_S = 0.1  # messages of one client: no more than workers send meanwhile
# How far a client is when the ingress is killed; the last with all of the message sent.
STEPS = ('connected', 'EHLO', 'MAIL', 'RCPT', 'DATA', 'half', 'dot', '250')
ROWS_SQL = 'SELECT id, message_id FROM outbound_emails'
DOUBTFUL_SQL = """
SELECT e.message_id, count(*) AS attempts FROM email_attempts AS a
JOIN outbound_emails AS e ON e.id = a.email_id
WHERE a.outcome IN ('uncertain', 'lost') GROUP BY e.message_id
"""


class Ingress:
    """The process, which is killed and started again at the same port."""

    def __init__(self, stage: Stage) -> None:
        self.port = free_port()
        self.kills = 0
        self._environment = stage.fleet.environment | {
            'INGRESS_PORT': str(self.port), 'PYTHONPATH': str(ROOT),
        }  # fmt: skip
        self._directory = stage.fleet.directory
        self._watchdog = Watchdog()
        self.start()

    def start(self) -> None:
        argv = [sys.executable, '-m', 'ingress']
        command = Command(argv, cwd=self._directory, environment=self._environment)
        self._process = spawn(command, self._directory / 'ingress.log', self._watchdog)

    def kill(self) -> None:
        """SIGKILL, and start the next."""
        self.stop()
        self.kills += 1
        self.start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._watchdog.forget(self._process.pid)

    def close(self) -> None:
        self.stop()
        self._watchdog.close()


@dataclass
class Tally:
    """What the clients know."""

    numbers: itertools.count = field(default_factory=itertools.count)
    taken: set[str] = field(default_factory=set)  # Message-IDs that were answered by 250
    unanswered: Counter[str] = field(default_factory=Counter)  # sent whole, and no 250


class Client:
    """A mailer: it sends a message again until it gets its 250."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port, self._tally = port, tally
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, reached: Callable[[str], Awaitable[None]] | None = None) -> None:
        message_id = f'<{next(self._tally.numbers)}@chaos.example>'
        while message_id not in self._tally.taken:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._transact(message_id, reached)
            except (OSError, EOFError):
                self.hang_up()
                await asyncio.sleep(AGAIN_S)
            reached = None  # the first time only

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _transact(
        self, message_id: str, reached: Callable[[str], Awaitable[None]] | None
    ) -> None:
        async def step(name: str, said: bytes, code: bytes) -> bytes:
            self._writer.write(said)
            answer = await self._reply()
            if not answer.startswith(code):
                raise EOFError(f'{name}: {answer!r}')
            if reached is not None:
                await reached(name)
            return answer

        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection('127.0.0.1', self._port)
            await step('connected', b'', b'220')
            await step('EHLO', b'EHLO chaos.example\r\n', b'250')
        await step('MAIL', b'MAIL FROM:<noreply@example.com>\r\n', b'250')
        await step('RCPT', b'RCPT TO:<anna@example.com>\r\n', b'250')
        await step('DATA', b'DATA\r\n', b'354')
        head = f'From: noreply@example.com\r\nMessage-ID: {message_id}\r\n\r\n'.encode()
        self._writer.write(head)
        if reached is not None:
            await reached('half')
        self._tally.unanswered[message_id] += 1
        self._writer.write(b'This one must not be lost.\r\n.\r\n')
        if reached is not None:
            await reached('dot')
        answer = await self._reply()
        if not answer.startswith(b'250'):
            raise EOFError(f'{answer!r}')
        self._tally.unanswered[message_id] -= 1
        self._tally.taken.add(message_id)
        if reached is not None:
            await reached('250')

    async def _reply(self) -> bytes:
        while True:
            line = await self._reader.readline()
            if not line:
                raise EOFError
            if line[3:4] != b'-':
                return line


async def ingress(arena: Arena) -> list[Row]:
    """The SMTP ingress, PostgreSQL's sessions and workers are ended at each step, under load."""
    row = Row('SMTP ingress killed at each step')
    async with arena.stage('ingress') as stage:
        await stage.fleet.start_up(WORKERS)
        door, tally, enough = Ingress(stage), Tally(), asyncio.Event()
        try:
            load = [asyncio.create_task(_keep_sending(door, tally, enough))
                    for _ in range(CLIENTS)]  # fmt: skip
            await until(lambda: len(tally.taken) > 50, ANSWER_S, 'mail by SMTP')
            for _ in range(stage.pick(5, 1)):
                for name in STEPS:
                    await _at_step(name, door, tally, door.kill)
            for name in STEPS:
                await _at_step(name, door, tally, lambda: _end_sessions(stage))
                row.faults += 1
            for name in STEPS[-2:]:
                await _at_step(name, door, tally, lambda: _replace_worker(stage))
            enough.set()
            await asyncio.gather(*load)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            door.close()
        row.faults += door.kills + len(stage.fleet.kills)
        ids = [record['id'] for record in await stage.pool.fetch(ROWS_SQL)]
        await stage.quiet(ids, 2 * stage.lease_s + 60)
        row.problems += await stage.fleet.stop_all()
        await _judge(row, stage, tally)
    return [row]


async def _keep_sending(door: Ingress, tally: Tally, enough: asyncio.Event) -> None:
    client = Client(door.port, tally)
    while not enough.is_set():
        await client.send()
        await asyncio.sleep(BETWEEN_S)
    client.hang_up()


async def _at_step(
    name: str, door: Ingress, tally: Tally, fault: Callable[[], Awaitable[None] | None]
) -> None:
    """Let a client come so far, then do it; and wait until the client has its 250 all the same."""
    was_reached = False

    async def reached(step: str) -> None:
        nonlocal was_reached
        if step == name and not was_reached:
            was_reached = True
            if (doing := fault()) is not None:
                await doing

    client = Client(door.port, tally)
    while not was_reached:  # the one before may still be starting
        await client.send(reached)
        client.hang_up()


async def _end_sessions(stage: Stage) -> None:
    with contextlib.suppress(asyncpg.PostgresError, OSError):
        await stage.pool.execute(END_SESSIONS_SQL)


async def _replace_worker(stage: Stage) -> None:
    stage.fleet.kill(stage.fleet.up[0])
    await stage.fleet.started(stage.fleet.start())


async def _judge(row: Row, stage: Stage, tally: Tally) -> None:
    rows = Counter(record['message_id'] for record in await stage.pool.fetch(ROWS_SQL))
    doubtful = Counter({
        record['message_id']: record['attempts']
        for record in await stage.pool.fetch(DOUBTFUL_SQL)
    })  # fmt: skip
    accepted = stage.accepted()
    row.emails, row.took_s = len(tally.taken), time.time() - stage.started_at
    row.delivered = sum(accepted[message_id] > 0 for message_id in tally.taken)
    lost = [m for m in tally.taken if not rows[m] or not accepted[m]]
    twice = [m for m in rows if rows[m] > 1 + tally.unanswered[m]]
    outside = [m for m in accepted if accepted[m] > rows[m] + doubtful[m]]
    row.lost, row.outside = len(lost), len(outside)
    row.duplicates = sum(max(0, number - 1) for number in accepted.values())
    for what, found in (
        ('lost after 250', lost),
        ('queued twice although each was answered', twice),
        ('a duplicate outside the uncertain window', outside),
    ):
        if found:
            row.problems.append(f'{what}: {len(found)}, such as {found[:5]}')
    row.notes.append(
        f'{sum(number > 1 for number in rows.values())} messages were queued again after an '
        'answer that never came'
    )
    if row.duplicates > row.faults * (SMTP_CONNECTIONS + CLIENTS):
        row.problems.append(f'{row.duplicates} duplicates')
