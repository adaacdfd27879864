"""Take over from Celery: adopt its table, and make the e-mails due that messages in its Redis queues are about."""

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.adoption import Wish, count_statuses, grant, merged, preview
from db.migrate import connect_directly, migrate
from db.pools import DATABASE_DOWN
from db.schema import APPLIED_SQL, known_migrations
from db.wakeups import notify
from fleet import celery_broker as broker
from fleet.celery_messages import Meaning, Message, read_message
from ops.answer import USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed
from ops.connect import Connections, attempt, first_connection, place_of, postgres_trouble, redis_of, redis_trouble
from ops.import_tally import Tally, render_import
from ops.mail_filter import text_value
from ops.output import counted

HELP = "adopt Celery's outbound_emails, and take over what waits in its Redis queues"

MAPPINGS = {'send_email': Meaning.SEND, 'retry_failed_email': Meaning.RETRY, 'ignore': Meaning.DUTY}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('--queue', action='append', type=text_value, metavar='NAME', help="Celery's (default: celery)")
    parser.add_argument('--db', type=database, metavar='N', help="of Celery's broker, if it is not the queue's")
    parser.add_argument('--key-prefix', default='', metavar='TEXT', help="the broker's global_keyprefix")
    parser.add_argument(
        '--task', action='append', type=mapping, default=[], metavar='NAME=MEANING',
        help=f'what a task of another name means: {", ".join(MAPPINGS)}',
    )  # fmt: skip
    parser.add_argument('--set-aside', action='store_true', help=f'move what cannot be used to {broker.SET_ASIDE_KEY}')
    parser.add_argument('--force', action='store_true', help='although Celery workers seem to be running')
    add_change(parser)
    add_json(parser)


def database(text: str) -> int:
    """Read the number of a Redis database."""
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of a database')
    return int(text)


def mapping(text: str) -> tuple[str, Meaning]:
    """Read app.tasks.deliver=send_email."""
    name, _, meaning = text.rpartition('=')
    if not name or meaning not in MAPPINGS:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=MEANING with one of {", ".join(MAPPINGS)}')
    return name, MAPPINGS[meaning]


render = render_import


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Count what there is, ask, adopt the table, then take message after message: PostgreSQL first, Redis after it."""
    async with broker_of(connections, options.db) as redis:
        importing = Import(connections, redis, options)
        return await importing.run()


@asynccontextmanager
async def broker_of(connections: Connections, number: int | None) -> AsyncIterator[ArqRedis]:
    """Open Celery's Redis: the queue's server, perhaps another database of it."""
    url = connections.settings.arq_redis_url.get_secret_value()
    redis = redis_of(url, 'ARQ_REDIS_URL', database=number)
    try:
        yield redis
    except (RedisError, OSError) as error:
        raise TroubleError(redis_trouble(error, place_of(url, 6379))) from error
    finally:
        await redis.aclose(close_connection_pool=True)


class Import:
    """One run: where from, how tasks are understood, and what was found."""

    def __init__(self, connections: Connections, redis: ArqRedis, options: argparse.Namespace) -> None:
        self.connections = connections
        self.redis = redis
        self.options = options
        self.tasks = dict(options.task)
        self.prefix = options.key_prefix
        self.aside = broker.SET_ASIDE_KEY if options.set_aside else None

    async def run(self) -> Answer:
        """See run."""
        await self.refuse_running_celery()
        async with raw_connection(self.connections) as conn:
            missing, statuses = await look_at_schema(conn)
            found = await self.look(None if statuses is None else conn)
            document: Document = {
                'dry_run': self.options.dry_run,
                'schema': {'missing': missing, 'emails': statuses},
                **found.as_document(),
            }
            if self.options.dry_run:
                return Answer(document, found.troubles(self.options.set_aside))
            table = 'Bring the schema up to date, and take' if missing else 'Take'
            to_do = missing or found.messages
            if to_do and not confirmed(self.options, f'{table} over {counted(found.messages, "message")} of Celery?'):
                raise TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))
            if missing:
                await adopt(conn, self.connections.settings.email_max_attempts)
        troubles: list[Trouble] = []
        tally = Tally()
        await attempt(self.take_all(tally, troubles), troubles)  # what was done before a fault is told as well
        if tally.due:
            await attempt(self.connections.ask_postgres(notify), troubles)
        return Answer(document | tally.as_document(), [*troubles, *tally.troubles(self.options.set_aside)])

    async def refuse_running_celery(self) -> None:
        """Refuse while somebody else takes messages: both would work on them."""
        consumers = await broker.count_consumers(self.redis)
        if consumers and not (self.options.dry_run or self.options.force):
            waiting = counted(consumers, 'client waits', 'clients wait')
            raise TroubleError(
                Trouble(
                    f'{waiting} for messages in this database, as Celery workers do',
                    'stop the Celery workers and beat first, or give --force if they are something else',
                )
            )

    async def lists(self) -> dict[str, int]:
        """Return the keys to take from."""
        return await broker.find_lists(self.redis, self.options.queue or ['celery'], self.prefix)

    async def look(self, conn: asyncpg.Connection | None) -> Tally:
        """Count what a run would do."""
        tally = Tally()

        async def judge(source: str, messages: Sequence[Message]) -> None:
            wishes = merged(wishes_of(messages))
            tally.add(
                source, messages, await preview(conn, wishes) if conn else {w.email_id: 'missing' for w in wishes}
            )

        for name in await self.lists():
            async for batch in broker.look_through(self.redis, name):
                await judge(name, [read_message(raw, self.tasks) for raw in batch])
        async for taken in broker.look_through_unacked(self.redis, self.prefix):
            await judge(broker.UNACKED, [read_message(raw, self.tasks, unacked=True) for _, raw in taken])
        return tally

    async def take_all(self, tally: Tally, troubles: list[Trouble]) -> None:
        """Take every message that is there now."""
        for name, length in (await self.lists()).items():
            await self.take_list(name, length, tally, troubles)
        async for taken in broker.look_through_unacked(self.redis, self.prefix):
            messages = [read_message(raw, self.tasks, unacked=True) for _, raw in taken]
            outcomes = await self.grant(messages)
            for (tag, _), message in zip(taken, messages, strict=True):
                if to := self.destination(message, outcomes):
                    await broker.take_unacked(self.redis, tag, message.raw, to, self.prefix)
            tally.add(broker.UNACKED, messages, outcomes)

    async def take_list(self, name: str, length: int, tally: Tally, troubles: list[Trouble]) -> None:
        """Take a list's messages from the end that Celery takes them from."""
        while length > 0:
            raws = await broker.read_end(self.redis, name, min(length, broker.BATCH))
            if not raws:
                return
            messages = [read_message(raw, self.tasks) for raw in raws]
            outcomes = await self.grant(messages)
            moves = [(message, self.destination(message, outcomes)) for message in messages]
            done = await broker.take(self.redis, name, moves)
            tally.add(name, messages[:done], outcomes)
            length -= done
            if done < len(moves):
                troubles.append(
                    Trouble(f'somebody else takes messages from {name}', 'stop Celery, then run this again')
                )
                return

    async def grant(self, messages: Sequence[Message]) -> dict[int, str]:
        """Make the rows due, committed when this returns."""
        wishes = merged(wishes_of(messages))
        granting = partial(grant, wishes=wishes, expiry_hours=self.connections.settings.email_expiry_hours)
        return await self.connections.ask_postgres(granting) if wishes else {}

    def destination(self, message: Message, outcomes: dict[int, str]) -> str | None:
        """Return where a message goes: what is done to the imported ones, the rest stays unless it is set aside."""
        if message.meaning is Meaning.DUTY or outcomes.get(message.email_id or 0, 'missing') != 'missing':
            return broker.IMPORTED_KEY
        return self.aside


def wishes_of(messages: Sequence[Message]) -> list[Wish]:
    """Return what messages want of the outbox."""
    return [
        Wish(message.email_id, message.meaning is Meaning.RETRY, message.not_before)
        for message in messages
        if message.email_id is not None
    ]


@asynccontextmanager
async def raw_connection(connections: Connections) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection to a database whose schema may not be ours yet."""
    settings = connections.settings
    conn: Any = None
    try:
        connecting = connect_directly(settings.direct_dsn, settings.db_connect_timeout_s)
        conn = await first_connection(settings, connecting)
        yield conn
    except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
        raise TroubleError(postgres_trouble(error, place_of(settings.direct_dsn, 5432))) from error
    finally:
        if conn is not None:
            conn.terminate()


async def look_at_schema(conn: asyncpg.Connection) -> tuple[list[str], dict[str, int] | None]:
    """Return the migrations that are missing, and the e-mails by status."""
    try:
        applied = {row['migration_id'] for row in await conn.fetch(APPLIED_SQL)}
    except asyncpg.UndefinedTableError:
        applied = set()
    if unknown := applied - known_migrations():
        what = f'the database schema is newer than this program: it has {", ".join(sorted(unknown))}'
        raise TroubleError(Trouble(what, 'install the version of this program that belongs to it', exit_status=USAGE))
    return sorted(known_migrations() - applied), await count_statuses(conn)


async def adopt(conn: asyncpg.Connection, max_attempts: int) -> None:
    """Bring the schema up to this version, the old system's table included."""
    try:
        await migrate(conn, max_attempts)
    except Exception as error:
        cause = error.__cause__ or error
        remedy = getattr(cause, 'hint', None) or 'nothing of this step was changed; correct it, then run this again'
        raise TroubleError(Trouble(f'{error}: {cause}', remedy)) from error
