"""Taking over from Celery: message after message, then the table.

Of each message PostgreSQL learns first, and Redis after it: an interruption in between has the
message read again, and its e-mail is due already.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg

from db.adoption.phases import AdoptionPhase, read_phase
from db.adoption.plan import is_adopted
from db.import_requests import make_due, merged, preview, still_open
from engine.queues import QUEUES
from mail_outbox.wake import notify
from ops.answer import Answer
from ops.celery import broker as celery_broker
from ops.celery.broker import Fate
from ops.celery.connect import Broker, elsewhere
from ops.celery.kept import remember_tasks, remembered_tasks
from ops.celery.keys import Container, Containers, find_containers, has_results
from ops.celery.messages import Meaning, Message
from ops.celery.options import ImportOptions
from ops.celery.requests import Requests
from ops.celery.signs import Signs, signs_of_celery
from ops.celery.table import (
    expand_table,
    expected,
    look_at_schema,
    raw_connection,
    take_over_table,
)
from ops.celery.tally import NOT_OURS, Tally, outcome_of
from ops.connect import Connections
from reporting.problems import Document, Problem, ProblemError
from reporting.servers import answer_or_note
from reporting.wording import counted

BEFORE_TAKE_OVER = (AdoptionPhase.EXPANDING, AdoptionPhase.SHARED)


class Import:
    """One run: where from, how tasks are understood, and what was found."""

    def __init__(self, connections: Connections, broker: Broker, options: ImportOptions) -> None:
        self.connections = connections
        self.broker = broker
        self.redis = broker.redis
        self.options = options
        self.tasks: dict[str, Meaning] = dict(options.tasks)
        self.hold_after = timedelta(hours=connections.settings.adoption_hold_after_hours)
        self.now = datetime.now(UTC)
        self.requests = Requests(self.now)
        self.messages = 0  # of all containers

    async def run(self) -> Answer:
        """Count what there is, ask, and take the messages and the table."""
        self.tasks = await remembered_tasks(self.redis) | self.tasks
        containers = await self._find_containers()
        self.messages = containers.messages
        signs = await signs_of_celery(self.redis, containers=containers)
        await self._refuse(containers, signs)
        async with raw_connection(self.connections) as conn:
            missing, statuses = await look_at_schema(conn)
            found = await self._look(containers, None if statuses is None else conn)
            document = await self._document(signs, missing, statuses) | found.as_document()
            if self.options.dry_run:
                return await self._forecast(conn, document, signs, found)
            if await _comes_before_take_over(conn) and (unexplained := found.unknown.problem()):
                what = f'{unexplained.what}; nothing was changed'
                raise ProblemError(replace(unexplained, what=what))
            changes_table = bool(missing) or await read_phase(conn) in BEFORE_TAKE_OVER
            self._confirm(found, changes_table=changes_table)
            tally, problems = await self._take(conn, containers, document)
        if tally.due or document['taken_over']:
            await answer_or_note(self.connections.ask_postgres(notify), problems)
        left = tally.problems(set_aside=self.options.set_aside)
        return Answer(document | tally.as_document(), [*problems, *left])

    async def _refuse(self, containers: Containers, signs: Signs) -> None:
        """Refuse while Celery runs, and where it is more likely in another database.

        Raises:
            ProblemError: says which, and what to do.
        """
        if signs.is_running and not (self.options.dry_run or self.options.force):
            remedy = (
                'stop the Celery workers and beat first, or give --force if they are something else'
            )
            raise ProblemError(Problem(signs.in_words, remedy))
        # An address that somebody gave is believed, also while nothing waits there.
        settings = self.connections.settings
        is_given = self.options.database is not None or settings.celery_broker_url is not None
        if not is_given and not containers.messages:
            found = await elsewhere(self.broker)
            if any(found.values()) or (found and not containers.is_kombus):
                raise ProblemError(_found_elsewhere(self.broker, found))

    async def _forecast(
        self, conn: asyncpg.Connection, document: Document, signs: Signs, found: Tally
    ) -> Answer:
        """Say what a run would do."""
        forecast = await expected(conn, self.connections.settings)
        document['forecast'] = [asdict(emails) for emails in forecast]
        left: list[Problem] = []
        if signs.is_running:
            left.append(Problem(signs.in_words, 'stop Celery before the import'))
        return Answer(document, left + found.problems(set_aside=self.options.set_aside))

    async def _take(
        self, conn: asyncpg.Connection, containers: Containers, document: Document
    ) -> tuple[Tally, list[Problem]]:
        """Take the messages, then the table. What was done before a fault is reported as well."""
        plan = await expand_table(conn, self.connections.settings, self.connections.steps)
        problems: list[Problem] = []
        tally = Tally()
        if self.requests.has_later:
            async for _, messages in self._entries(containers):
                self.requests.note_now(messages)
        await answer_or_note(self._take_all(containers, tally), problems)
        if not problems:
            if plan is not None:
                document['taken_over'] = await take_over_table(
                    conn, plan, self.connections.settings, problems, self.connections.steps
                )
            problems += await self._what_came(tally)
        return tally, problems

    async def _find_containers(self) -> Containers:
        return await find_containers(self.redis, self.options.queues, self.options.key_prefix)

    async def _document(
        self, signs: Signs, missing: list[str], statuses: dict[str, int] | None
    ) -> Document:
        return {
            'dry_run': self.options.dry_run,
            'broker': self.broker.place,
            'signs': signs.as_document(),
            'schema': {'missing': missing, 'emails': statuses},
            'results': await has_results(self.redis),
            'forecast': None,
            'taken_over': None,
        }

    def _confirm(self, found: Tally, *, changes_table: bool) -> None:
        table = ', and its table' if changes_table else ''
        question = f'Take over {counted(found.messages, "message")} of Celery{table}?'
        if changes_table or found.messages:
            self.options.confirm(question)

    async def _entries(
        self, containers: Containers
    ) -> AsyncIterator[tuple[Container, list[Message]]]:
        for container in containers.all:
            async for batch in celery_broker.look_through(self.redis, container):
                yield container, [entry.read(self.tasks) for entry in batch]

    async def _look(self, containers: Containers, conn: asyncpg.Connection | None) -> Tally:
        """Count what a run would do."""
        tally = Tally(is_dry=True)
        only_theirs = conn is not None and await _comes_before_take_over(conn)
        async for container, messages in self._entries(containers):
            requests = merged(self.requests.of(messages))
            self.requests.note_later(messages)
            outcomes = (
                await preview(conn, requests, hold_after=self.hold_after)
                if conn and requests
                else {request.email_id: 'missing' for request in requests}
            )
            may_mean = {message.may_mean for message in messages if message.may_mean is not None}
            most = self.connections.settings.email_max_attempts
            open_ids = (
                await still_open(conn, may_mean, max_attempts=most, only_theirs=only_theirs)
                if conn and may_mean
                else set()
            )
            self._count(tally, container, messages, outcomes, open_ids)
        return tally

    def _count(
        self,
        tally: Tally,
        container: Container,
        messages: Sequence[Message],
        outcomes: Mapping[int, str],
        open_ids: Collection[int] = (),
    ) -> None:
        named = [outcome_of(message, outcomes, self.now) for message in messages]
        moves = self._others_move(container)
        tally.add(
            container.name, messages, named, others_move=moves, open_ids=open_ids, now=self.now
        )
        told = f'{tally.messages} messages {"looked at" if tally.is_dry else "taken"}'
        self.connections.steps(told, tally.messages, self.messages)

    def _fates(
        self, container: Container, messages: Sequence[Message], outcomes: Mapping[int, str]
    ) -> list[Fate]:
        """Say where messages go.

        What cannot be used is set aside; other applications' tasks stay if they can.
        """
        fates = {'missing': Fate.SET_ASIDE, 'unreadable': Fate.SET_ASIDE}
        fates |= dict.fromkeys(
            NOT_OURS, Fate.SET_ASIDE if self._others_move(container) else Fate.STAYS
        )
        return [
            fates.get(outcome_of(message, outcomes, self.now), Fate.IMPORTED)
            for message in messages
        ]

    def _others_move(self, container: Container) -> bool:
        """Whether messages of other tasks are moved.

        They are when that is asked for, or when their list has the name of a queue of ours.
        """
        in_the_way = self.broker.is_ours and not container.is_hash and container.name in QUEUES
        return self.options.set_aside or in_the_way

    async def _take_all(self, containers: Containers, tally: Tally) -> None:
        """Take every message that was there.

        Raises:
            ProblemError: a server is unreachable, or somebody else takes messages; what was taken
                until then is counted.
        """
        await remember_tasks(
            self.redis, {name: str(meaning) for name, meaning in self.tasks.items()}
        )
        for container in containers.lists:
            await self._take_list(container, tally)
        for container in containers.hashes:
            async for batch in celery_broker.look_through(self.redis, container):
                messages = [entry.read(self.tasks) for entry in batch]
                outcomes = await self._make_due(messages)
                fates = self._fates(container, messages, outcomes)
                await celery_broker.take_from_hash(
                    self.redis, container, list(zip(batch, fates, strict=True))
                )
                self._count(tally, container, messages, outcomes)

    async def _take_list(self, container: Container, tally: Tally) -> None:
        """Take a list's messages from the end that Celery takes them from."""
        length = container.length
        while length > 0:
            batch = await celery_broker.read_list(self.redis, container.key, 0, length)
            if not batch:
                return
            messages = [entry.read(self.tasks) for entry in batch]
            outcomes = await self._make_due(messages)
            fates = self._fates(container, messages, outcomes)
            done = await celery_broker.take_from_list(
                self.redis, container.key, list(zip(batch, fates, strict=True))
            )
            self._count(tally, container, messages[:done], outcomes)
            length -= done
            if done < len(batch):
                what = f'somebody else takes messages from {container.name}'
                raise ProblemError(Problem(what, 'stop Celery, then run this again'))

    async def _what_came(self, tally: Tally) -> list[Problem]:
        """Say what was put there meanwhile, by a producer that was not deployed yet."""
        left = (await self._find_containers()).messages
        came = left - tally.stays
        remedy = 'the sweep sends their e-mails all the same'
        remedy += '; run this again when beat and the last old producer are gone'
        return [Problem(f'{counted(came, "message")} came meanwhile', remedy)] if came > 0 else []

    async def _make_due(self, messages: Sequence[Message]) -> dict[int, str]:
        """Make the rows due, committed when this returns."""
        requests = merged(self.requests.of(messages))
        expiry_hours = self.connections.settings.email_expiry_hours
        making = partial(
            make_due, requests=requests, hold_after=self.hold_after, expiry_hours=expiry_hours
        )
        return await self.connections.ask_postgres(making) if requests else {}


async def _comes_before_take_over(conn: asyncpg.Connection) -> bool:
    return await is_adopted(conn) and await read_phase(conn) is not AdoptionPhase.TAKEN_OVER


def _found_elsewhere(broker: Broker, found: dict[int, int]) -> Problem:
    where = ', '.join(
        f'database {number} has {counted(messages, "message")}'
        for number, messages in found.items()
    )
    what = (
        f'there is no message of Celery in {broker.place}, but {where} of the same server; '
        'nothing was changed'
    )
    number = max(found, key=lambda number: (found[number], -number))
    remedy = (
        f'give --db {number}, or --db {broker.address.database} '
        'if they are none of this application'
    )
    return Problem(what, remedy)
