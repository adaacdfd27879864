"""docs/runbook.md: every command line in it is carried out.

It has to answer as the document says.
"""

import asyncio
import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from db.switches import SwitchKind, pause
from fleet.channel import ask
from fleet.ingresses import INGRESSES
from fleet.registry import RECORD_PREFIX, WORKERS_KEY, read_workers
from ops import migration
from ops.__main__ import make_parser
from ops.commands import COMMANDS
from ops.control import INSTEAD as NO_CONTROL
from ops.control import WORDS
from ops.inspect import INSTEAD as NOT_INSPECTED
from ops.running import answer
from reporting.inspection import READERS
from settings import load_settings
from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.ops_desk import Typed, closed_port, insert, rendered
from tests.unit.bounce_messages import dsn
from tests.unit.test_celery_messages import message

OPS = ['python', '-m', 'ops']
MIGRATE = ['python', '-m', 'db.migrate']
LINE = re.compile(r'(?P<command>.*?)(?:\s+# (?:\[(?P<status>\d+)\] )?(?P<told>.*))?')

# The e-mails that the document speaks of; each line gets rows of its own.
DEAD = {
    'status': 'failed',
    'attempts': 1,
    'last_attempt_at': 'sql:now()',
    'message_id': '<m@example.com>',
}
EXAMPLES = {
    '101': {
        'email_type': 'newsletter', 'next_retry_at': "sql:now() + interval '1 hour'",
        'created_at': "sql:now() - interval '2 hours'",
        'expires_at': "sql:now() + interval '1 day'",
    },
    '202': DEAD | {'dead_reason': 'rejected', 'last_error': '550 5.1.1 timeout of a mailbox',
        'relay': 'primary'},
    '303': DEAD | {'status': 'uncertain', 'email_type': 'receipt',
        'last_error': 'no reply to the final dot'},
    '404': DEAD | {'dead_reason': 'poison', 'attempts': 3, 'lost_attempts': 3},
    '707': {
        'status': 'held', 'email_type': 'newsletter',
        'next_retry_at': "sql:now() - interval '40 days'",
        'created_at': "sql:now() - interval '40 days'",
    },
    '606': {'email_type': 'newsletter'},
    '505': {'status': 'sent', 'attempts': 2, 'sent_at': 'sql:now()',
        'message_id': '<m@example.com>'},
}  # fmt: skip
ATTEMPTS = {'202': ('rejected',), '404': ('lost', 'lost', 'lost'), '505': ('uncertain', 'accepted')}
JOB = '5f0c7e'

# What is not ours, and is only looked at.
ALLOWED = (
    r'systemctl (status|restart|start) (email-(worker(@\w+)?|web|ingress)|redis-server|postgresql)',
    r'python -m web',  # tests/services/test_web_process.py starts it
    r'curl -sS http://127\.0\.0\.1:8625/metrics',
    r'curl -X POST http://127\.0\.0\.1:8625/admin/emails/123/retry -H "Authorization: .*"',
    r'journalctl -u email-(worker|ingress)( -n \d+| --since -\d+h) --no-pager',
    r'deploy/rolling-restart\.sh',
    r'deploy/install\.sh( --dry-run)?',
    r'git pull',
)


@dataclass(frozen=True)
class Line:
    """A command or statement of the document, and what is said about it."""

    section: str
    language: str
    text: str
    status: int = 0
    claims: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def read_document() -> str:
    return (ROOT / 'docs/runbook.md').read_text()


def lines_of(document: str) -> Iterator[Line]:
    """Read every line of every block; SQL ends with a semicolon, and its comments claim nothing."""
    section = ''
    for heading, language, body in re.findall(
        r'^(?:#+ ([^\n]+)|```(\w*)\n(.*?)^```)$', document, re.MULTILINE | re.DOTALL
    ):
        section = heading or section
        if heading:
            continue
        if language == 'sql':
            statements = re.findall(r'[^;]+;(?:[ ]+--.*)?', body)
            assert ''.join(statements).strip() == body.strip(), 'a statement without a semicolon'
            yield from (Line(section, language, sql.strip()) for sql in statements)
            continue
        assert language == 'sh', f'a block of neither sh nor sql in {section}'
        for text in body.splitlines():
            told = LINE.fullmatch(text)
            assert told
            if told['command'] and not told['command'].startswith('#'):
                claims = tuple(re.findall(r'"([^"]+)"', told['told'] or ''))
                yield Line(section, language, told['command'], int(told['status'] or 0), claims)


DOCUMENT = read_document()
LINES = list(lines_of(DOCUMENT))
PARSER = make_parser()


class Desk:
    """Carries lines out as an operator at a terminal would, who answers y."""

    def __init__(self, env, pool, redis, start_worker, inbox, monkeypatch, capsys) -> None:
        self.env, self.pool, self.redis, self.inbox = env, pool, redis, inbox
        self.start_worker, self.monkeypatch, self.capsys = start_worker, monkeypatch, capsys
        self.worker, self.settings = None, None

    async def start(self) -> None:
        self.worker = await self.start_worker(WORKER_NAME='mail-1').started()
        email_id = await insert(self.pool)
        await self.redis.enqueue_job('send_email', email_id, _job_id=JOB)
        await wait_until(lambda: self.redis.exists(f'arq:result:{JOB}'))
        await wait_until(self.is_answered)

    async def is_answered(self) -> bool:
        """Whether the worker has registered and hears commands."""
        return bool(
            await read_workers(self.redis)
            and (await ask(self.redis, 'ping', timeout_s=DEADLINE_S)).replies
        )

    async def ops(self, words: list[str]) -> tuple[int, str]:
        """Return the exit status and everything that was said."""
        options = PARSER.parse_args(words)
        if 'timeout' in options:
            options.timeout = (
                DEADLINE_S  # the machine may be busy; nobody waits for more than the replies
            )
        self.monkeypatch.setattr('sys.stdin', Typed('y\n'))
        command = COMMANDS[options.command].load(options.command)
        given = await answer(self.settings, command, options)
        shown = rendered(options.command, given) if given.document and not given.streamed else ''
        printed = self.capsys.readouterr()
        problems = '\n'.join(problem.line for problem in given.problems)
        return given.exit_status, f'{printed.out}\n{shown}\n{problems}'

    async def migrate(self) -> tuple[int, str]:
        return await migration.main([]), self.capsys.readouterr().out


async def insert_example(pool, example: str) -> str:
    """Insert an e-mail that the document speaks of. Returns its real id."""
    email_id = await insert(pool, **EXAMPLES[example])
    for number, outcome in enumerate(ATTEMPTS.get(example, ()), start=1):
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
            'relay, reply) '
            "VALUES ($1, now(), $2, 'mail-1@server:42', $3, 'replied', 'primary', '550 5.1.1 no "
            "such user')",
            email_id, number, outcome,
        )  # fmt: skip
    return str(email_id)


async def pause_a_type(desk: Desk) -> None:
    await pause(desk.pool, SwitchKind.EMAIL_TYPE, 'newsletter', reason='wrong link', by='anna')


async def queue_without_worker(desk: Desk) -> None:
    await desk.redis.enqueue_job('send_email', 1, _queue_name='low_priority')


async def empty_redis(desk: Desk) -> None:
    (worker,) = await read_workers(desk.redis)
    record = await desk.redis.get(RECORD_PREFIX + worker.worker)
    await desk.redis.flushdb()
    # As the worker does by itself, but within five seconds.
    await desk.redis.set(RECORD_PREFIX + worker.worker, record, px=60_000)
    await desk.redis.zadd(WORKERS_KEY, {worker.worker: 1})


async def leave_a_message_of_celery(desk: Desk) -> None:
    await desk.redis.lpush('celery', message(args=[await insert(desk.pool, **EXAMPLES['101'])]))


async def lose_an_ingress(desk: Desk) -> None:
    await desk.redis.zadd(INGRESSES.names_key, {'mail.example.com:2525': time.time() - 60})


async def start_the_ingress_again(desk: Desk) -> None:
    await desk.redis.delete(INGRESSES.names_key)


# What is the matter in a section: what happens before, and which settings of the operator point at
# nothing.
HAPPENS: dict[str, Callable[[Desk], Awaitable[None]]] = {
    "Coming from Celery's Redis": leave_a_message_of_celery,
    'A worker runs, but mail waits': pause_a_type,
    'A queue does not get shorter': queue_without_worker,
    'Redis was emptied': empty_redis,
    'Applications cannot submit by SMTP': lose_an_ingress,
    'MongoDB is gone': start_the_ingress_again,
}
AWAY = {
    'No worker, or it does nothing': {'ARQ_REDIS_URL': '{redis}/9'},
    'The relay refuses, or is gone': {'SMTP_PORT': '{nobody}'},
    'Redis is gone': {'ARQ_REDIS_URL': 'redis://127.0.0.1:{nobody}/1'},
    'PostgreSQL is gone': {'DATABASE_URL': 'postgresql://127.0.0.1:{nobody}/mail'},
    'MongoDB is gone': {'MONGODB_URL': 'mongodb://127.0.0.1:{nobody}/', 'MONGODB_TIMEOUT_S': '0.2'},
}


@contextlib.asynccontextmanager
async def mail_that_moves(desk: Desk, *, is_refused: bool) -> AsyncIterator[None]:
    """Queue mail as long as somebody listens."""

    async def queue() -> None:
        while True:
            await desk.redis.enqueue_job('send_email', await insert(desk.pool))
            await asyncio.sleep(0.05)

    if is_refused:
        await asyncio.to_thread(
            desk.inbox.control.misbehave, 'rcpt', 'refuse', code=550, text='5.1.1 no such user'
        )
    queueing = asyncio.create_task(queue())
    try:
        yield
    finally:
        queueing.cancel()
        await asyncio.gather(queueing, return_exceptions=True)
        await asyncio.to_thread(desk.inbox.control.behave)


async def carry_out(desk: Desk, line: Line) -> None:
    """Do what a line of ours says.

    Raises:
        AssertionError: the answer is not what the document says.
    """
    named = EXAMPLES.keys() & set(re.findall(r'\d+', line.text))
    ids = {example: await insert_example(desk.pool, example) for example in named}
    if line.language == 'sql':
        done = await desk.pool.execute(
            ''.join(ids.get(word, word) for word in re.split(r'\b', line.text))
        )
        assert not done.endswith(' 0'), done
        return
    words = [ids.get(word, word) for word in line.words]
    assert line.claims, 'the document does not say what this answers'
    moving = mail_that_moves(desk, is_refused='--failures' in words)
    async with (
        moving if words[3:4] == ['events'] else contextlib.nullcontext(),
        asyncio.timeout(DEADLINE_S),
    ):
        status, said = await (desk.migrate() if words == MIGRATE else desk.ops(words[3:]))
    assert status == line.status, said
    for claim in line.claims:
        assert claim in said, f'not {claim!r}, but {said}'
    if words[3:5] == ['control', 'shutdown'] and '--dry-run' not in words:
        assert await desk.worker.ended() == 0
        await desk.start()  # as systemd does


@pytest.fixture
async def desk(env, pool, redis, start_worker, inbox, monkeypatch, capsys, tmp_path):
    desk = Desk(env, pool, redis, start_worker, inbox, monkeypatch, capsys)
    (tmp_path / 'examples').symlink_to(ROOT / 'examples')
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # where no .env is
    (tmp_path / 'bounce.eml').write_bytes(dsn())
    await desk.start()
    return desk


def is_ours(line: Line) -> bool:
    return line.language == 'sql' or line.words[:3] in (OPS, MIGRATE)


async def test_every_command_of_the_runbook_answers_as_it_says(desk, monkeypatch):
    failures: list[str] = []
    redis = desk.env['ARQ_REDIS_URL'].rpartition('/')[0]
    for section in dict.fromkeys(line.section for line in LINES):
        for example in EXAMPLES:
            await insert_example(desk.pool, example)
        if section in HAPPENS:
            await HAPPENS[section](desk)
        with monkeypatch.context() as there:
            for name, value in AWAY.get(section, {}).items():
                there.setenv(name, value.format(redis=redis, nobody=closed_port()))
            desk.settings = load_settings()
            for line in (each for each in LINES if each.section == section and is_ours(each)):
                try:
                    await carry_out(desk, line)
                except (AssertionError, TimeoutError) as error:
                    failures.append(f'{section}: {line.text}: {error!s:.2000}')
    assert failures == [], '\n\n'.join(failures)


@pytest.mark.parametrize(
    'line', [line for line in LINES if not is_ours(line)], ids=lambda line: line.text
)
def test_commands_of_others_are_known_and_are_shell(line):
    assert any(re.fullmatch(allowed, line.text) for allowed in ALLOWED), line.text
    assert (
        subprocess.run(['bash', '-n', '-c', line.text], check=False, capture_output=True).returncode
        == 0
    )
    if line.text.startswith('deploy/'):
        assert (ROOT / line.words[0]).stat().st_mode & 0o100


def test_every_block_was_read_and_every_mishap_has_its_section():
    assert DOCUMENT.count('```') == 2 * len(re.findall(r'^```s', DOCUMENT, re.MULTILINE))
    assert {line.language for line in LINES} == {'sh', 'sql'}
    assert len(LINES) > 100
    assert HAPPENS.keys() | AWAY.keys() <= {line.section for line in LINES}


def test_no_command_stands_in_a_sentence_that_stands_in_no_block():
    sentences = re.sub(r'^```.*?^```$', '', DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    carried_out = [line.text.removeprefix('python -m ') for line in LINES]
    programs = r'ops|db\.migrate|systemctl|journalctl|deploy/|git|redis-cli|psql|arq'
    for code in re.findall(rf'`(?:python -m )?((?:{programs})\b[^`]*)`', sentences):
        assert any(text.startswith(code) for text in carried_out), code


def test_runbook_has_every_command_and_every_word_of_celery():
    words = [line.words[3:5] for line in LINES if line.language == 'sh' and line.words[:3] == OPS]
    assert {first for first, *_ in words} == set(COMMANDS)
    second = {(command, word) for command, word, *_ in (told for told in words if len(told) > 1)}
    assert {word for command, word in second if command == 'inspect'} == {*READERS, *NOT_INSPECTED}
    assert {word for command, word in second if command == 'control'} == {
        *WORDS,
        *NO_CONTROL,
        'pause',
        'resume',
        'ls',
    }
