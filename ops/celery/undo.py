"""The way back to Celery: its messages go to where they were taken from.

Those whose e-mails ended here stay: Celery would send them twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import asyncpg

from db.adoption.phases import AdoptionPhase, read_phase
from db.import_requests import count_leased, not_ended
from engine.queues import QUEUES
from fleet.registry import read_workers
from ops.answer import Answer
from ops.celery import broker as celery_broker
from ops.celery import kept as celery_kept
from ops.celery.broker import Entry, Fate
from ops.celery.connect import Broker
from ops.celery.kept import Kept
from ops.celery.keys import find_bound_queues
from ops.celery.messages import Meaning
from ops.celery.options import ImportOptions
from ops.celery.signs import signs_of_celery
from ops.celery.table import give_back, raw_connection
from ops.connect import Connections
from reporting.problems import Document, Problem, ProblemError
from reporting.wording import counted


class Undo:
    """One run. An interruption leaves each message in one place, and the next run goes on."""

    def __init__(self, connections: Connections, broker: Broker, options: ImportOptions) -> None:
        self.connections = connections
        self.broker = broker
        self.redis = broker.redis
        self.options = options
        self.tasks: Mapping[str, Meaning] = {}
        self.put_back: Counter[str] = Counter()
        self.stay_kept = 0
        self.kept = 0  # messages that there are

    async def run(self) -> Answer:
        """Refuse while anybody works, ask, put messages back, then undo the table's adoption."""
        self.tasks = await celery_kept.remembered_tasks(self.redis)
        async with raw_connection(self.connections) as conn:
            await self._refuse(conn)
            found = await celery_kept.find_kept(self.redis)
            self.kept = sum(kept.container.length for kept in found)
            names = await self._queues_in_the_way(found)
            dry_run = self.options.dry_run
            if not dry_run:
                self.options.confirm(
                    f'Give {counted(self.kept, "message")} and the table back to Celery?'
                )
                names = await celery_kept.rename_queues(
                    self.redis, [name.encode() for name in names]
                )
            for kept in found:
                await (self._give_back_hash if kept.container.is_hash else self._give_back_list)(
                    conn, kept
                )
            given_back = (
                None
                if dry_run
                else await give_back(conn, self.connections.settings, self.connections.steps)
            )
            document: Document = {
                'dry_run': dry_run,
                'broker': self.broker.place,
                'put_back': dict(self.put_back),
                'stay_kept': self.stay_kept,
                'queues_moved': names,
                'given_back': given_back,
            }
            return Answer(document)

    async def _refuse(self, conn: asyncpg.Connection) -> None:
        """Refuse while our workers or Celery's run, and when there is no way back any more."""
        workers = await self.connections.ask_redis(read_workers)
        leased = await count_leased(conn)
        if workers or leased:
            sends = f'workers are sending {counted(leased)}'
            runs = counted(len(workers), 'worker runs', 'workers run') if workers else sends
            raise ProblemError(
                Problem(f'{runs}; nothing was changed', 'stop the workers, and wait for their end')
            )
        if await read_phase(conn) is AdoptionPhase.FINISHED:
            what = 'the table was finished: Celery cannot work on it any more; nothing was changed'
            raise ProblemError(
                Problem(what, 'there is no way back after `python -m db.migrate --finish`')
            )
        signs = await signs_of_celery(self.redis)
        if signs.is_running and not (self.options.dry_run or self.options.force):
            raise ProblemError(
                Problem(
                    f'{signs.in_words}; nothing was changed',
                    'start Celery after this, or give --force',
                )
            )

    async def _queues_in_the_way(self, found: Sequence[Kept]) -> list[str]:
        """Return our queues that have the name of a list of Celery's."""
        if not self.broker.is_ours:
            return []
        theirs = {
            kept.source for kept in found if not kept.container.is_hash
        } | await find_bound_queues(self.redis)
        names = [name for name in QUEUES if name.encode() in theirs]
        return [name for name in names if await self.redis.type(name) == b'zset']

    async def _give_back_list(self, conn: asyncpg.Connection, kept: Kept) -> None:
        left = kept.container.length
        passed = 0
        while left > 0:
            batch = (await celery_kept.read_kept(self.redis, kept, passed))[:left]
            if not batch:
                return
            goes_back = await self._judge(conn, kept, batch)
            if self.options.dry_run:
                done = len(batch)
                passed += done
            else:
                pairs = list(zip(batch, goes_back, strict=True))
                done = await celery_kept.put_back_in_list(self.redis, kept, pairs)
            self._count(kept, goes_back[:done])
            left -= done
            if done < len(batch):
                what = f'somebody else changes {kept.container.name}'
                raise ProblemError(Problem(what, 'see who, then run this again'))

    async def _give_back_hash(self, conn: asyncpg.Connection, kept: Kept) -> None:
        async for batch in celery_broker.look_through(self.redis, kept.container):
            goes_back = await self._judge(conn, kept, batch)
            if not self.options.dry_run:
                entries = [entry for entry, back in zip(batch, goes_back, strict=True) if back]
                await celery_kept.put_back_in_hash(self.redis, kept, entries)
            self._count(kept, goes_back)

    async def _judge(
        self, conn: asyncpg.Connection, kept: Kept, batch: Sequence[Entry]
    ) -> list[bool]:
        """Say which messages go back: those about e-mails that are still open, and all others."""
        if kept.fate is Fate.SET_ASIDE:
            return [True] * len(batch)
        ids = [entry.read(self.tasks).email_id for entry in batch]
        open_ids = await not_ended(conn, {email_id for email_id in ids if email_id is not None})
        return [email_id is None or email_id in open_ids for email_id in ids]

    def _count(self, kept: Kept, goes_back: Sequence[bool]) -> None:
        name = kept.source.decode(errors='backslashreplace')
        if back := sum(goes_back):
            self.put_back[name] += back
        self.stay_kept += len(goes_back) - sum(goes_back)
        done = sum(self.put_back.values())
        self.connections.steps(f'{done} messages put back', done + self.stay_kept, self.kept)
