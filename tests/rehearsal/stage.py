"""One installation on its way: what is done with it, what is waited for, and the verdict."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio

from dev.stack import Stack
from tests.chaos.fleet import Fleet
from tests.chaos.waiting import DeadlinePassedError, until
from tests.rehearsal import guests
from tests.rehearsal.document import Command, read_commands
from tests.rehearsal.ledger import ONCE, Ledger, Verdict, add_arrivals, judge, read_ledger
from tests.rehearsal.old_system import QUEUES, Client, OldSystem
from tests.rehearsal.report import Row
from tests.rehearsal.variants import Variant

WORKER = 'tests.rehearsal.quick_worker.WorkerSettings'
COMMAND_DEADLINE_S = 180.0
SETTLE_DEADLINE_S = 150.0
SEEN_IDS = 12
CAME_MEANWHILE = 'came meanwhile'  # an import's status is 1 then, although all is well
UNCERTAIN = {'202', '203', '204'}  # ids of the document; a story decides about its own before
SHORT_QUEUE = 5  # beat's own
SWEEPS_SQL = (
    "SELECT count(*) FROM cron_runs WHERE duty = 'process_pending_emails' AND outcome IS NOT NULL"
)


class StepFailedError(Exception):
    """A command of the document did not end as it says; the way ends here."""


@dataclass
class Answered:
    """How a command of the document ended."""

    command: str
    status: int
    said: str


@dataclass
class Stage:
    """A variant's databases, processes and findings."""

    variant: Variant
    directory: Path
    conn: asyncpg.Connection
    broker: redis.asyncio.Redis
    old: OldSystem
    fleet: Fleet
    environment: dict[str, str]
    stack: Stack
    short: bool = False
    row: Row = field(init=False)
    examples: dict[str, str] = field(default_factory=dict)  # ids in the document, and the real ones
    released: set[int] = field(default_factory=set)
    may_double: set[int] = field(default_factory=set)
    answers: list[Answered] = field(default_factory=list)
    producer: Client = field(init=False)
    orm: Client = field(init=False)
    new: Client | None = None

    def __post_init__(self) -> None:
        self.row = Row(self.variant.name)
        self._started_at = time.monotonic()
        self._index_start = len(self.stack.inbox.messages())
        self._sections = read_commands()

    # What the application does.

    async def open(self) -> None:
        """Start the application's own programs; Celery is not running yet."""
        self.before = await guests.look(self.conn)
        self.producer = await self.old.client('old_app.producer')
        self.orm = await self.old.client('old_app.orm_client')
        self.orm.keep_reading()

    async def seed(self, kind: str, count: int, **options: Any) -> list[int]:
        """Have the application make e-mails of a kind. Returns their ids."""
        count = max(2, count // 3) if self.short else count
        priorities = {'priorities': self.variant.priorities} if self.variant.priorities else {}
        ids: list[int] = await self.producer.order(
            do='seed', kind=kind, count=count, **priorities, **options
        )
        if kind == 'old pending':
            await self.conn.executemany(
                'INSERT INTO invoices (email_id) VALUES ($1)', [(number,) for number in ids]
            )
        return ids

    async def load(self, per_s: float, **options: Any) -> None:
        """Set how many e-mails a second the application queues the old way."""
        await self.producer.order(
            do='rate', per_s=per_s, priorities=list(self.variant.priorities), **options
        )

    async def start_new_producer(self) -> None:
        """Deploy the part of the application that uses queue_email."""
        self.new = await self.old.started(
            sys.executable, 'tests.rehearsal.new_producer', self.environment
        )
        await self.new.answer()
        self.new.keep_reading()

    async def orm_goes_round(self, times: int = 2) -> None:
        """Wait until the ORM client has been through all it does, begun after now."""
        wanted = self.orm.rounds + times
        await until(
            lambda: self.orm.rounds >= wanted, COMMAND_DEADLINE_S, 'rounds of the ORM client'
        )

    # What the operator does.

    async def follow(self, section: str) -> None:
        """Type what a section of docs/migration.md says; it has to answer as the document says.

        Raises:
            StepFailedError: it did not, and the way ends here.
        """
        name = next(name for name in self._sections if name.startswith(section))
        for command in self._sections[name]:
            await self.carry_out(command)

    async def carry_out(self, command: Command) -> None:
        """Carry out a command of the document."""
        match command.words:
            case ['systemctl', verb, *units]:
                await self._manage(verb, units)
                return
            case ['python', *words] if UNCERTAIN & set(words):
                return
            case ['python', *words]:
                answered = await self.run(*(self.examples.get(word, word) for word in words))
            case _:
                raise ValueError(f'nobody here knows how to carry out {command.text!r}')
        came = command.status == 0 and answered.status == 1 and CAME_MEANWHILE in answered.said
        if (answered.status != command.status and not came) or 'Traceback' in answered.said:
            raise StepFailedError(
                f'{command.text}: status {answered.status}, not {command.status}: '
                f'{answered.said[-600:]}'
            )
        missing = [claim for claim in command.claims if claim not in answered.said]
        self.row.problems += [
            f'{command.text}: not {claim!r}, but {answered.said[-600:]}' for claim in missing
        ]

    async def run(self, *words: str) -> Answered:
        """Run a program of ours as an operator does, without a terminal."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=self.directory, env=self.environment | {'COLUMNS': '200'},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = await asyncio.wait_for(process.communicate(), COMMAND_DEADLINE_S)
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
            self.row.problems.append(f'{" ".join(words)}: not done in {COMMAND_DEADLINE_S:.0f} s')
        answered = Answered(' '.join(words), process.returncode or 0, said.decode(errors='replace'))
        self.answers.append(answered)
        with (self.directory / 'commands.log').open('a') as log:
            at = f'{time.monotonic() - self._started_at:.0f} s'
            log.write(
                f'$ python {answered.command}\n{answered.said}[{answered.status}] at {at}\n\n'
            )
        return answered

    async def run_and_kill(self, *words: str, after_s: float) -> None:
        """Start a program of ours, and kill it a moment later, if it has not ended by then."""
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            cwd=self.directory,
            env=self.environment,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        try:
            await asyncio.wait_for(process.wait(), after_s)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _manage(self, verb: str, units: list[str]) -> None:
        if any(unit.startswith('celery') for unit in units):
            await (self.old.start() if verb == 'start' else self.stop_celery())
        elif verb in ('start', 'enable') and not self.fleet.up:
            await self.fleet.started(self.fleet.start(WORKER))
        elif verb == 'stop':
            for worker in self.fleet.up:
                await self.fleet.stop(worker)

    async def stop_celery(self) -> None:
        """End Celery as the variant does.

        Note what a kill left between the relay's answer and the record.
        """
        await self.old.stop(self.variant.ending)
        if self.variant.ending == 'KILL':
            self.may_double |= self.ledger().in_flight

    # What is seen.

    def ledger(self) -> Ledger:
        """Read what was inserted and what has arrived."""
        ledger = read_ledger(self.directory / 'ledger.jsonl')
        add_arrivals(ledger, self.stack.inbox.messages()[self._index_start :])
        return ledger

    async def more_arrive(self, count: int, kinds: set[str] = ONCE) -> None:
        """Wait until so many more e-mails of these kinds have arrived."""
        before = arrived(self.ledger(), kinds)
        what = f'{count} more of {", ".join(sorted(kinds))}'
        await until(
            lambda: arrived(self.ledger(), kinds) >= before + count,
            SETTLE_DEADLINE_S,
            what,
            poll_s=0.2,
        )

    async def settled(self) -> None:
        """Wait until all that is there has been sent, and for two sweeps more.

        What doubles, doubles then.
        """
        there = self.ledger().entries.keys()
        try:
            await until(
                lambda: not there & set(self.verdict().lost),
                SETTLE_DEADLINE_S,
                'all sent',
                poll_s=0.3,
            )
        except DeadlinePassedError:
            return  # the verdict names them
        sweeps = await self.sweeps()
        # Hundreds of messages of the old sweep's may be in the queue before it.
        if self.old.is_running:
            await until(
                self.queues_are_short, SETTLE_DEADLINE_S, 'queues of Celery empty', poll_s=0.2
            )
        if self.old.is_running or self.fleet.up:
            await until(
                lambda: self._more_sweeps(sweeps), SETTLE_DEADLINE_S, 'two more sweeps', poll_s=0.2
            )

    async def sweeps(self) -> int:
        """Count the runs of both systems' sweeps."""
        with_ours = await self.conn.fetchval("SELECT to_regclass('cron_runs')")
        return self.ledger().sweeps + (
            int(await self.conn.fetchval(SWEEPS_SQL)) if with_ours else 0
        )

    async def _more_sweeps(self, before: int) -> bool:
        return await self.sweeps() >= before + 2

    async def queues_are_short(self) -> bool:
        """Whether Celery has little to do: the sweep itself may be waiting."""
        prefix = self.variant.celery.get('broker_transport_options', {}).get('global_keyprefix', '')
        lengths = [await self.broker.llen(f'{prefix}{name}') for name in QUEUES.split(',')]
        return sum(lengths) < SHORT_QUEUE

    async def nothing_of_celery_is_in_the_way(self) -> None:
        """Check that no list of Celery's has a name that a queue of ours may have, or messages in
        it.
        """
        prefix = self.variant.celery.get('broker_transport_options', {}).get('global_keyprefix', '')
        names = [f'{prefix}{name}' for name in (*QUEUES.split(','), 'unacked')]
        left = [name for name in names if await self.broker.type(name) in (b'list', b'hash')]
        self.row.problems += [f'{name} is still in Redis' for name in left]

    def verdict(self) -> Verdict:
        return judge(self.ledger(), released=self.released, may_double=self.may_double)

    async def form_is_untouched(self, when: str, *, exactly: bool = False) -> None:
        """Check that nothing of the application's schema has changed."""
        changed = guests.form_changed(self.before, await guests.look(self.conn), exactly=exactly)
        self.row.problems += [f'{when}: schema {line}' for line in changed]

    async def close(self) -> None:
        """Let the application end, wait until all is sent, stop everything, and fill in the row."""
        await self.load(0)
        for client in (self.orm, self.producer, *([self.new] if self.new else [])):
            await client.end()
        await self.settled()
        if self.old.is_running:
            await self.old.stop('TERM')
        self.row.problems += await self.fleet.stop_all()
        await self.judge()

    async def judge(self) -> None:
        """Fill in the row with what there is now."""
        ledger, verdict = self.ledger(), self.verdict()
        row = self.row
        row.must, row.sent, row.forced = verdict.must, verdict.sent, len(verdict.forced)
        for name in ('lost', 'doubled', 'early', 'old_sent', 'unwanted'):
            ids = getattr(verdict, name)
            setattr(row, name, len(ids))
            if ids:
                row.problems.append(f'{name}: {describe(ledger, ids)}')
        row.errors = len(ledger.errors)
        row.problems += first_of_each(ledger.errors)
        row.problems += self.old.alarms()
        row.problems += [f'logged: {alarm}' for alarm in self.fleet.alarms()]
        gone = guests.rows_gone(self.before, await guests.look(self.conn))
        row.deleted = sum(gone.values())
        row.problems += [
            f'{count} rows of {table} deleted or changed' for table, count in gone.items()
        ]
        # What was inserted as sent has no history.
        changed = {id_ for id_, entry in ledger.entries.items() if entry.kind != 'sent before'}
        if not_told := sorted(changed & await guests.not_told(self.conn)):
            row.problems.append(f'changes of status not told: {describe(ledger, not_told)}')
        ids_there = {
            record['id'] for record in await self.conn.fetch('SELECT id FROM outbound_emails')
        }
        if missing := sorted(ledger.entries.keys() - ids_there):
            row.problems.append(f'rows of outbound_emails deleted: {describe(ledger, missing)}')
        row.took_s = time.monotonic() - self._started_at
        (self.directory / 'verdict.json').write_text(json.dumps(vars(verdict)))


def arrived(ledger: Ledger, kinds: set[str]) -> int:
    """Count the e-mails of these kinds that have arrived."""
    return sum(bool(entry.arrivals) for entry in ledger.of(kinds))


def describe(ledger: Ledger, ids: list[int]) -> str:
    """Name e-mails by id and kind."""
    told = ', '.join(f'{number} ({ledger.entries[number].kind})' for number in ids[:SEEN_IDS])
    return f'{len(ids)}: {told}{" ..." if len(ids) > SEEN_IDS else ""}'


def first_of_each(errors: list[dict[str, Any]]) -> list[str]:
    """Return one line for each place where the application met errors."""
    by_place: dict[str, list[str]] = {}
    for error in errors:
        by_place.setdefault(error['where'], []).append(error['error'])
    return [f'application, {place}: {len(texts)} x {texts[0]}' for place, texts in by_place.items()]
