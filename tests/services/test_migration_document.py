"""docs/migration.md: every command of it is carried out in its order, and has to answer as the
document says.

Celery is played by a client that waits for messages, and by messages as kombu leaves them; `make
rehearsal` has the real one.
"""

import asyncio
import re
import shlex
import subprocess
import sys

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.rehearsal.document import MIGRATION, commands_of
from tests.services.adopted import create_legacy
from tests.unit.test_celery_messages import message

DOCUMENT = MIGRATION.read_text()
COMMANDS = list(commands_of(DOCUMENT))
SECTIONS = list(dict.fromkeys(command.section for command in COMMANDS))
BACK, BACK_FROM_2 = 'The way back', 'Back from step 2'
FINISH = next(section for section in SECTIONS if section.startswith('8.'))
EXAMPLES = {
    '101': 'held',
    '202': 'uncertain',
    '203': 'uncertain',
    '204': 'uncertain',
}  # ids that the document names
CELERY = ['celery-worker', 'celery-beat']
ROWS_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts, max_attempts,
    created_at, next_retry_at)
VALUES
    ('due@example.com', 'Due', 'Hello.', 'pending', 0, 5, now(), NULL),
    ('asked@example.com', 'Asked for', 'Hello.', 'failed', 5, 5, now(), NULL),
    ('old1@example.com', 'Old', 'Hello.', 'pending', 0, 5, now() - interval '30 days', NULL),
    ('old2@example.com', 'Old', 'Hello.', 'failed', 1, 5, now() - interval '30 days',
        now() - interval '29 days'),
    ('killed1@example.com', 'Killed', 'Hello.', 'sending', 1, 5, now(), NULL),
    ('killed2@example.com', 'Killed', 'Hello.', 'sending', 1, 5, now(), NULL),
    ('killed3@example.com', 'Killed', 'Hello.', 'sending', 1, 5, now(), NULL)
"""


class Operator:
    """Carries out what the document says, as its reader would."""

    def __init__(self, env, conn, redis, start_worker, directory):
        self.env, self.conn, self.redis, self.start_worker, self.directory = (
            env,
            conn,
            redis,
            start_worker,
            directory,
        )
        self.worker = self.celery = None

    async def carry_out(self, command):
        match command.words:
            case ['systemctl', verb, *units] if set(units) <= set(CELERY):
                await (self.start_celery() if verb == 'start' else self.stop_celery())
            case ['systemctl', 'start', 'email-worker']:
                if self.worker is None:
                    self.worker = await self.start_worker().started()
            case ['systemctl', 'stop', 'email-worker']:
                self.worker.stop()
                self.worker = None
            case ['python', *words]:
                status, said = await self.run(words)
                assert status == command.status, f'{command.text}: {status}: {said}'
                for claim in command.claims:
                    assert claim in said, f'{command.text}: not {claim!r}, but {said}'
            case _:
                pytest.fail(f'the document has a command that nobody knows: {command.text}')

    async def run(self, words):
        real = {
            number: await self.first(status)
            for number, status in EXAMPLES.items()
            if number in words
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, *(real.get(word, word) for word in words), cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate()
        return process.returncode, said.decode()

    async def first(self, status):
        return str(
            await self.conn.fetchval('SELECT min(id) FROM mail_outbox WHERE status = $1', status)
        )

    async def start_celery(self):
        """Wait for messages of a queue that stays empty, as a worker of Celery's does."""
        self.celery = await Redis.from_url(
            self.env['ARQ_REDIS_URL'], single_connection_client=True
        ).initialize()
        await self.celery.connection.send_command('BRPOP', 'celery\x06\x163', 0)
        await wait_until(self.someone_waits)

    async def someone_waits(self):
        return any(client['cmd'] == 'brpop' for client in await self.redis.client_list())

    async def stop_celery(self):
        if self.celery is not None:
            await self.celery.aclose()
            self.celery = None
            await wait_until(self.nobody_waits)

    async def nobody_waits(self):
        return not await self.someone_waits()

    async def status_of(self, recipient):
        sql = 'SELECT status::text FROM outbound_emails WHERE recipient = $1'
        return await self.conn.fetchval(sql, recipient)


@pytest.fixture
async def operator(env, empty_database, redis, start_worker, tmp_path):
    env |= {
        'DATABASE_URL': empty_database.dsn,
        'PYTHONPATH': str(ROOT),
        'WORKER_POLL_DELAY_S': '0.05',
    }
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(ROWS_SQL)
    await redis.lpush(
        'celery', message('shop.mail.deliver', [1]), message('app.retry_failed_email', [2])
    )
    await redis.sadd('_kombu.binding.celery', 'celery\x06\x16\x06\x16celery')
    operator = Operator(env, conn, redis, start_worker, tmp_path)
    await operator.start_celery()
    yield operator
    await operator.stop_celery()
    await conn.close()


async def carry_out_sections(operator, sections):
    for command in COMMANDS:
        if command.section in sections:
            await operator.carry_out(command)


async def test_steps_to_the_last_send_what_waits_hold_what_is_old_and_finish(operator, inbox):
    steps = [section for section in SECTIONS if section not in (FINISH, BACK, BACK_FROM_2)]
    await carry_out_sections(operator, steps)
    for recipient in ('due@example.com', 'asked@example.com'):
        await wait_until(lambda who=recipient: inbox.accepted(who))
    for recipient in ('old1@example.com', 'killed3@example.com'):
        await wait_until(lambda who=recipient: inbox.accepted(who))
    assert [await operator.status_of(f'killed{n}@example.com') for n in (1, 2)] == [
        'sent',
        'failed',
    ]
    assert await operator.status_of('old2@example.com') == 'cancelled'
    assert not inbox.accepted('old2@example.com')
    await carry_out_sections(operator, [FINISH])
    kind = (
        'SELECT data_type FROM information_schema.columns WHERE table_name = '
        "'outbound_emails' AND column_name = $1"
    )
    assert await operator.conn.fetchval(kind, 'status') == 'text'
    assert await operator.conn.fetchval(kind, 'created_at') == 'timestamp with time zone'
    people = ('due', 'asked', 'old1', 'old2', 'killed1', 'killed2', 'killed3')
    assert [len(inbox.accepted(f'{who}@example.com')) for who in people] == [1, 1, 1, 0, 0, 0, 1]


async def test_the_way_back_gives_messages_and_rows_back_to_celery(operator, inbox):
    before = await operator.redis.lrange('celery', 0, -1)
    steps = [section for section in SECTIONS if section[0] in '1245']
    await carry_out_sections(operator, steps)
    assert await operator.redis.lrange('celery', 0, -1) == []
    operator.worker = operator.start_worker(WORKER_NAME='never-up')
    operator.worker.stop()  # one that was started, and has not sent anything yet
    await carry_out_sections(operator, [BACK])
    assert await operator.redis.lrange('celery', 0, -1) == before
    assert await operator.conn.fetchval("SELECT to_regclass('mail_outbox')") is None
    assert [await operator.status_of(f'{who}@example.com') for who in ('old1', 'old2')] == [
        'pending',
        'failed',
    ]


async def test_the_way_back_from_step_2_leaves_the_table_as_it_was(operator):
    columns = (
        'SELECT column_name, data_type FROM information_schema.columns '
        "WHERE table_name = 'outbound_emails' ORDER BY ordinal_position"
    )
    before = await operator.conn.fetch(columns)
    await carry_out_sections(operator, [section for section in SECTIONS if section[0] in '12'])
    assert await operator.conn.fetch(columns) != before
    await carry_out_sections(operator, [BACK_FROM_2])
    assert await operator.conn.fetch(columns) == before


def test_every_command_of_the_document_is_in_a_section_that_a_test_carries_out():
    assert [section[0] for section in SECTIONS[:-2]] == [str(n) for n in range(1, 9)]
    assert SECTIONS[-2:] == [BACK, BACK_FROM_2]
    assert DOCUMENT.count('```') == 2 * len(re.findall(r'^```sh$', DOCUMENT, re.MULTILINE))


def test_no_command_stands_in_a_sentence_that_stands_in_no_block():
    sentences = re.sub(r'^```.*?^```$', '', DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    carried_out = [shlex.join(command.words) for command in COMMANDS]
    for code in re.findall(
        r'`(python -m [^`]*|systemctl [^`]*|ops [^`]*|db\.migrate[^`]*)`', sentences
    ):
        assert any(code.removeprefix('python -m ') in text for text in carried_out), code
