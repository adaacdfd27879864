"""The mailbox that reports come to, at Debian's Dovecot: each counts once, whatever ends when."""

import asyncio
import contextlib
import itertools
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from dev.watchdog import Watchdog
from jobs import fetch_reports as duty
from mail.bounce import mailbox
from mail.bounce.mailbox import MailboxError, ReportMailbox
from mail.bounce.mailbox_place import MailboxPlace
from reporting.checks import mailbox as check
from tests.conftest import wait_until
from tests.debian.dovecot import running_dovecot
from tests.debian.guest import ACCOUNTS, open_directory
from tests.debian.mail_servers import PASSWORD
from tests.services.ops_desk import insert, ops
from tests.unit.bounce_messages import PATHS, complaint, dsn

USERS = itertools.count(1)
OTHER = b'From: anna@example.net\r\nTo: bounces@example.com\r\nSubject: Hi\r\n\r\nDear shop.\r\n'


@pytest.fixture(scope='module')
def dovecot():
    with (
        open_directory() as directory,
        contextlib.closing(Watchdog()) as watchdog,
        running_dovecot(directory, watchdog) as running,
    ):
        yield running


class Box:
    """One user's mailbox, seen from the disk."""

    def __init__(self, dovecot):
        self.user = f'bounces{next(USERS)}'
        self._maildir = dovecot.mail / self.user
        self.place = MailboxPlace(
            'localhost', dovecot.imaps, 'implicit', self.user, 'INBOX', PASSWORD,
            ca_file=dovecot.certificate,
        )  # fmt: skip

    @property
    def url(self):
        return f'imaps://{self.user}@localhost:{self.place.port}/INBOX'

    def put(self, *messages):
        new = self._maildir / 'new'
        for folder in (self._maildir, new, self._maildir / 'cur', self._maildir / 'tmp'):
            folder.mkdir(exist_ok=True)
            os.chown(folder, ACCOUNTS['vmail'], ACCOUNTS['vmail'])
        for number, message in enumerate(messages):
            path = new / f'1800000000.{number:06}.{len(message)}.test'
            path.write_bytes(message)
            os.chown(path, ACCOUNTS['vmail'], ACCOUNTS['vmail'])

    def has(self, folder):
        return (self._maildir / folder).exists()

    def flags(self, folder='.'):
        """The flags of each message: S is seen, lower-case letters are keywords."""
        places = [self._maildir / folder / name for name in ('new', 'cur')]
        return sorted(path.name.partition(':2,')[2] for place in places for path in place.glob('*'))


@pytest.fixture
def box(dovecot):
    return Box(dovecot)


def context(pool, place):
    return {
        'runtime': SimpleNamespace(
            rules=SimpleNamespace(mailbox=place, return_paths=PATHS),
            stores=SimpleNamespace(pool=pool),
            signals=SimpleNamespace(stopping=asyncio.Event()),
        )
    }


async def run(pool, place):
    return await duty.fetch_reports(context(pool, place))


async def sent(pool, recipient='anna@example.net'):
    return await insert(pool, status='sent', attempts=1, sent_at='sql:now()', recipient=recipient)


def reports(count):
    return [dsn(to=PATHS.of(n), own_id=f'<r{n}@mx>') for n in range(1, count + 1)]


async def test_reports_are_taken_and_other_mail_is_left_unread(box, pool):
    bounced, complained = await sent(pool), await sent(pool)
    box.put(dsn(to=PATHS.of(bounced)), OTHER, complaint(original_from=PATHS.of(complained)))
    assert await run(pool, box.place) == {'affected': 2, 'left': 1, 'new': 2}
    assert box.flags() == ['S', 'S', 'a']
    assert await run(pool, box.place) == {'affected': 0, 'left': 0, 'new': 0}
    await apply_reports(pool, FeedbackRules())
    states = await pool.fetch('SELECT status FROM outbound_emails ORDER BY id')
    assert [row['status'] for row in states] == ['bounced', 'complained']


async def test_reports_are_moved_to_the_folder_that_is_named(box, pool):
    box.put(*reports(3), OTHER)
    place = replace(box.place, taken_folder='Taken')
    assert (await run(pool, place))['affected'] == 3
    assert (box.flags(), box.flags('.Taken')) == (['a'], ['S', 'S', 'S'])


async def test_mailbox_in_the_clear_on_this_machine_and_an_empty_one(dovecot, box, pool):
    place = replace(box.place, port=dovecot.imap, tls='none')
    assert await run(pool, place) == {'affected': 0, 'left': 0, 'new': 0}
    box.put(*reports(1))
    assert (await run(pool, place))['new'] == 1


async def test_starttls_and_a_name_beyond_ascii(dovecot, box, pool):
    box.put(*reports(1))
    place = replace(box.place, port=dovecot.imap, tls='starttls')
    assert (await run(pool, place))['new'] == 1
    assert (await run(pool, replace(place, user='jürgen')))['new'] == 0


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'password': 'wrong'}, 'the login is refused: .*; see BOUNCE_IMAP_PASSWORD'),
        ({'password': 'wröng'}, 'the login is refused: .*; see BOUNCE_IMAP_PASSWORD'),
        ({'folder': 'Nowhere'}, 'Nowhere: .*exist'),
        ({'port': 1}, 'refused'),
        ({'host': 'nowhere.invalid'}, 'nowhere.invalid'),
        ({'ca_file': None}, 'certificate verify failed'),
        ({'ca_file': Path('/nowhere.pem')}, 'No such file'),
        ({'token_file': Path('/nowhere.token')}, 'No such file'),
        ({'tls': 'none'}, 'localhost'),  # at the port for TLS
    ],
)
async def test_mailbox_that_cannot_be_read_is_told_with_its_reason(
    box, pool, monkeypatch, change, said
):
    monkeypatch.setattr(mailbox, 'CONNECT_S', 2.0)
    monkeypatch.setattr(mailbox, 'SILENCE_S', 2.0)
    place = replace(box.place, **change)
    with pytest.raises(MailboxError, match=said):
        await run(pool, place)
    (finding,) = await check.check(place)
    assert finding.severity == 'error'
    assert str(place) in finding.what
    assert PASSWORD not in finding.what


async def test_doctor_and_duty_come_in_as_the_settings_say(env, box, pool):
    box.put(OTHER)
    variables = {
        'BOUNCE_IMAP_URL': box.url, 'BOUNCE_IMAP_CA_FILE': str(box.place.ca_file),
        'BOUNCE_IMAP_TAKEN_FOLDER': 'Taken',
    }  # fmt: skip
    fine = await ops(
        env | variables | {'BOUNCE_IMAP_PASSWORD': PASSWORD}, 'doctor', 'mailbox', '--json'
    )
    assert fine.document['checks'] == {'mailbox': 'ok'}
    assert box.flags() == ['']
    assert not box.has('.Taken')
    wrong = await ops(
        env | variables | {'BOUNCE_IMAP_PASSWORD': 'wrong'}, 'doctor', 'mailbox', '--json'
    )
    assert 'BOUNCE_IMAP_PASSWORD' in wrong.document['findings'][0]['what']


async def test_more_than_a_run_reads_waits_for_the_next(box, pool, monkeypatch):
    monkeypatch.setattr(duty, 'MOST_MESSAGES', 40)
    monkeypatch.setattr(mailbox, 'SEARCHED_AT_ONCE', 16)
    box.put(*reports(90))
    assert [(await run(pool, box.place))['new'] for _ in range(4)] == [40, 40, 10, 0]


async def test_message_of_100_mb_is_read_in_its_beginning_alone(box, pool):
    (report,) = reports(1)
    box.put(report + b'\r\n--b1\r\n\r\n' + (b'x' * 76 + b'\r\n') * 1_350_000)
    seen = []
    read = ReportMailbox.read

    def noted(self, uid):
        seen.append(read(self, uid))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportMailbox, 'read', noted)
        assert (await run(pool, box.place))['new'] == 1
    assert [len(data) for data in seen] == [256 * 1024]


async def test_server_that_is_killed_before_reports_are_marked_counts_none_twice(
    dovecot, box, pool, monkeypatch
):
    box.put(*reports(25))
    settle, killed = ReportMailbox.settle, []

    def after_kill(self, taken, left):
        if len(killed) < 2:
            for child in psutil.Process(dovecot.pid).children(recursive=True):
                if child.name() == 'imap':
                    child.kill()
            killed.append(taken)
        settle(self, taken, left)

    monkeypatch.setattr(ReportMailbox, 'settle', after_kill)
    for _ in range(2):
        with pytest.raises(MailboxError):
            await run(pool, box.place)
    assert (await run(pool, box.place))['affected'] == 25
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 25
    assert box.flags() == ['S'] * 25


async def test_worker_that_is_killed_again_and_again_loses_no_report_and_counts_none_twice(
    box, pool, redis, start_worker
):
    box.put(*reports(400))
    variables = {
        'BOUNCE_IMAP_URL': box.url, 'BOUNCE_IMAP_PASSWORD': PASSWORD,
        'BOUNCE_IMAP_CA_FILE': str(box.place.ca_file),
        'BOUNCE_ADDRESS': PATHS.address, 'BOUNCE_SECRET': PATHS.secrets[0],
    }  # fmt: skip

    async def stored():
        return await pool.fetchval('SELECT count(*) FROM email_feedback')

    for _ in range(3):
        worker = start_worker(**variables)
        await worker.started()
        before = await stored()
        await redis.enqueue_job('fetch_reports')
        await wait_until(partial(is_more_than, stored, before))
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
    await start_worker(**variables).started()
    await redis.enqueue_job('fetch_reports')
    await wait_until(lambda: box.flags() == ['S'] * 400)
    assert await stored() == 400
    ids = await pool.fetch('SELECT DISTINCT email_id FROM email_feedback')
    assert len(ids) == 400


async def is_more_than(stored, before):
    return await stored() > before


# Servers that nobody has at home.


@contextlib.asynccontextmanager
async def server_that(talk):
    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    async with server:
        yield MailboxPlace(
            'localhost', server.sockets[0].getsockname()[1], 'none', 'u', 'INBOX', 'p'
        )


async def hang_up(reader, writer):
    writer.write(b'* BYE go away\r\n')


async def say_nothing(reader, writer):
    await reader.read()


async def drip(reader, writer):
    writer.write(b'* OK ')
    while not writer.is_closing():
        writer.write(b'x')
        await writer.drain()
        await asyncio.sleep(0.05)


async def talk_nonsense(reader, writer):
    writer.write(b'\0\xff* (((\r\n' * 1000)
    await reader.read()


async def answer_wrongly(reader, writer):
    writer.write(b'* OK [CAPABILITY IMAP4rev1] ready\r\n')
    while line := await reader.readline():
        tag = line.split()[0]
        writer.write(b'* SEARCH x y {99\r\n* -1 EXISTS\r\n' + tag + b' OK [READ-WRITE] (\r\n')


async def never_end_a_line(reader, writer):
    writer.write(b'* OK ' + b'x' * 3_000_000 + b'\r\n')
    await reader.read()


@pytest.mark.parametrize(
    'talk', [hang_up, say_nothing, drip, talk_nonsense, answer_wrongly, never_end_a_line]
)
async def test_server_out_of_its_mind_ends_the_run_in_time(pool, monkeypatch, talk):
    monkeypatch.setattr(mailbox, 'SILENCE_S', 1.0)
    monkeypatch.setattr(mailbox, 'CONNECT_S', 1.0)
    monkeypatch.setattr(duty, 'RUN_S', 3.0)
    async with server_that(talk) as place:
        with pytest.raises(MailboxError):
            await run(pool, place)
