"""deploy/install.sh in a throw-away root, and an update under load with the real
rolling restart.
"""

import asyncio
import itertools
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import DEADLINE_S, ROOT, wait_until

VENV = Path(sys.executable).parent.parent
UNITS = 'usr/local/lib/systemd/system'


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A copy of this program's source, so that nobody edits it meanwhile, and a root it is
    installed in.
    """
    place = tmp_path_factory.mktemp('prepared')
    ignored = shutil.ignore_patterns('.*', '__pycache__', 'tests', 'bench', 'dev')
    shutil.copytree(ROOT, place / 'source', ignore=ignored, symlinks=True)
    shutil.copy(ROOT / '.env.example', place / 'source')
    installed(place / 'source', place / 'a root')
    return place


@pytest.fixture
def source(prepared, tmp_path):
    return shutil.copytree(prepared / 'source', tmp_path / 'source', symlinks=True)


@pytest.fixture
def root(prepared, tmp_path):
    """The prepared root, to be changed."""
    return shutil.copytree(prepared / 'a root', tmp_path / 'a root', symlinks=True)


def install(source, root, *options, **run_options):
    return subprocess.run(
        [source / 'deploy' / 'install.sh', *options],
        env={'PATH': os.environ['PATH'], 'DESTDIR': str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **run_options,
    )


def installed(source, root, *options):
    ran = install(source, root, '--venv', VENV, *options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def tree(root):
    """Every path with what tells whether it was changed."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in sorted(root.rglob('*'))
    }


def current(root):
    return root / 'opt/email-worker/current'


PYTHON = """#!/bin/sh
# What python3 does for install.sh: -c checks, -m venv makes an environment, pip and compileall
# write files into it.
case $1$2 in
    -mvenv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    -mpip) here=$(dirname "$(dirname "$0")") && mkdir -p "$here/lib/arq" &&
        touch "$here/lib/arq/worker.py" ;;
    -mcompileall) mkdir -p "$6/__pycache__" && touch "$6/__pycache__/worker.pyc" ;;
esac
"""
PRIVATE = {'etc/email-worker': 0o750, 'etc/email-worker/env': 0o640, 'etc/credstore': 0o700}


def wrong_modes(root):
    """What others than root can write, or the service cannot read and should."""
    found = {}
    for path in sorted(root.rglob('*')):
        mode, name = stat.S_IMODE(path.lstat().st_mode), str(path.relative_to(root))
        wanted = 0o555 if path.is_dir() else 0o444
        if not path.is_symlink() and (
            mode != PRIVATE[name] if name in PRIVATE else mode & 0o022 or mode & wanted != wanted
        ):
            found[name] = oct(mode)
    return found


@pytest.fixture
def stub_python(tmp_path):
    program = tmp_path / 'python3'
    program.write_text(PYTHON)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize('umask', [0o077, 0o027, 0o022, 0o002, 0o000], ids=oct)
def test_modes_are_the_same_under_every_umask(source, tmp_path, stub_python, umask):
    root = tmp_path / 'new'
    ran = install(source, root, '--python', stub_python, umask=umask)
    assert ran.returncode == 0, ran.stderr
    assert (current(root) / '.venv/lib/arq/worker.py').is_file()
    assert (current(root) / '__pycache__/worker.pyc').is_file()
    assert wrong_modes(root) == {}
    assert install(source, root, '--python', stub_python, '--check', umask=umask).returncode == 0


@pytest.mark.parametrize(
    ('spoilt', 'mode', 'told'),
    [
        ('opt/email-worker/current/.venv', 0o700, 'let everybody read release'),
        ('opt/email-worker/current/.venv/lib/arq/worker.py', 0o600, 'let everybody read release'),
        ('opt/email-worker/current/__pycache__/worker.pyc', 0o666, 'let everybody read release'),
        ('opt/email-worker/current/worker.py', 0o664, 'let everybody read release'),
        ('opt/email-worker/current/db', 0o777, 'let everybody read release'),
        ('opt/email-worker', 0o700, 'make /opt/email-worker'),
        ('opt/email-worker/releases', 0o777, 'make /opt/email-worker/releases'),
        ('etc/email-worker/env.example', 0o666, 'write /etc/email-worker/env.example'),
        ('opt/email-worker/current/deploy/email-worker', 0o700, 'let everybody read release'),
        (f'{UNITS}/email-web.service', 0o666, f'install /{UNITS}/email-web.service'),
        ('usr/lib/sysusers.d/email-worker.conf', 0o600, 'describe the user'),
        ('etc/email-worker', 0o755, 'make /etc/email-worker'),
        ('etc/credstore', 0o755, 'make /etc/credstore'),
    ],
)
def test_wrong_mode_is_told_by_check_and_mended_by_the_next_install(
    source, tmp_path, stub_python, spoilt, mode, told
):
    root = tmp_path / 'new'
    assert install(source, root, '--python', stub_python).returncode == 0
    (root / spoilt).chmod(mode)
    checked = install(source, root, '--python', stub_python, '--check')
    assert (checked.returncode, checked.stdout.startswith(f'not done: {told}')) == (1, True), (
        checked.stdout
    )
    assert install(source, root, '--python', stub_python).returncode == 0
    assert wrong_modes(root) == {}
    assert install(source, root, '--python', stub_python, '--check').returncode == 0


def test_dry_run_says_everything_and_changes_nothing(source, tmp_path):
    root = tmp_path / 'empty'
    ran = install(source, root, '--venv', VENV, '--dry-run')
    assert ran.returncode == 0
    assert 'would: build release' in ran.stdout
    for unit in ('email-worker@.service', 'email-web.service'):
        assert f'would: install /usr/local/lib/systemd/system/{unit}' in ran.stdout
    assert not root.exists()


def test_check_passes_after_an_install_and_fails_when_something_differs(source, root):
    assert install(source, root, '--venv', VENV, '--check').returncode == 0
    for unit in ('email-worker@.service', 'email-web.service'):
        (root / UNITS / unit).unlink()
    (root / 'etc/email-worker/env').chmod(0o644)
    ran = install(source, root, '--venv', VENV, '--check')
    assert (ran.returncode, ran.stdout.splitlines()) == (
        1,
        [
            'not done: let only root and the service read /etc/email-worker/env',
            f'not done: install /{UNITS}/email-worker@.service',
            f'not done: install /{UNITS}/email-web.service',
        ],
    )


def test_installed_release_has_what_production_needs_and_only_that(source, root):
    names = {path.name for path in current(root).resolve().iterdir()}
    assert {
        'worker.py',
        'settings.py',
        'db',
        'fleet',
        'jobs',
        'mail',
        'ops',
        'web',
        'deploy',
    } <= names
    assert {'requirements.txt', 'pyproject.toml', '.env.example'} <= names
    assert not {'tests', 'dev', 'bench', '.git', '.env'} & names
    assert (current(root) / 'db/migrations/0001_outbox.sql').is_file()
    unit, template = (
        root / UNITS / name for name in ('email-worker.service', 'email-worker@.service')
    )
    assert (
        unit.read_bytes()
        == template.read_bytes()
        == (source / 'deploy/email-worker.service').read_bytes()
    )
    assert not template.is_symlink()
    assert (root / UNITS / 'email-web.service').read_bytes() == (
        source / 'deploy/email-web.service'
    ).read_bytes()
    assert (current(root) / 'web/templates/overview.html').is_file()
    assert (root / 'etc/email-worker/env').stat().st_mode & 0o777 == 0o640
    assert (root / 'etc/credstore').stat().st_mode & 0o777 == 0o700


def test_command_on_the_path_is_the_current_releases(source, root):
    for name in ('usr/local/bin/email-worker', 'usr/local/sbin/email-worker-run'):
        link = root / name
        assert link.readlink() == Path('/opt/email-worker/current/deploy/email-worker')
        link.unlink()
        assert f'not done: install /{name}' in install(
            source, root, '--venv', VENV, '--check'
        ).stdout.replace(f'{root}', '')
    installed(source, root)
    command = root / str((root / 'usr/local/bin/email-worker').readlink()).lstrip('/')
    told = subprocess.run([command, '--version'], capture_output=True, text=True, check=True)
    assert told.stdout.startswith('email-worker ')
    installed(source, root, '--uninstall')
    assert not [path for path in root.rglob('*') if 'bin/' in str(path)]


def test_second_install_changes_nothing(source, root):
    before = tree(root)
    assert 'nothing to do' in installed(source, root)
    assert tree(root) == before


def test_edited_settings_survive_updates_and_uninstall_but_not_purge(source, root):
    env = root / 'etc/email-worker/env'
    env.write_text('SMTP_HOST=relay.example.com\n')
    credential = root / 'etc/credstore/email-web.WEB_TOKEN'
    credential.write_text('secret')
    env.chmod(0o644)
    with (source / '.env.example').open('a') as example:
        example.write('# a new setting\n')
    installed(source, root)
    assert env.read_text() == 'SMTP_HOST=relay.example.com\n'
    assert env.stat().st_mode & 0o777 == 0o640
    assert '# a new setting' in (root / 'etc/email-worker/env.example').read_text()
    installed(source, root, '--uninstall')
    assert sorted(path for path in root.rglob('*') if path.is_file()) == [credential, env]
    installed(source, root, '--uninstall', '--purge')
    assert not [path for path in root.rglob('*') if path.is_file()]


def test_interrupted_build_is_made_anew(source, root):
    release = current(root).resolve()
    (release / '.complete').unlink()
    (release / 'worker.py').unlink()
    assert 'build release' in installed(source, root)
    assert (release / 'worker.py').is_file()


def test_old_releases_go_except_the_last_two_and_those_in_use(source, root):
    releases = root / 'opt/email-worker/releases'
    old = [releases / name for name in ('in-use', 'oldest', 'older', 'last')]
    for age, path in enumerate(old):
        path.mkdir()
        os.utime(path, (age, age))
    with subprocess.Popen(['cat'], cwd=old[0], stdin=subprocess.PIPE):  # ends with its stdin
        installed(source, root)
        assert {path.name for path in releases.iterdir()} == {
            'in-use',
            'older',
            'last',
            current(root).resolve().name,
        }


@pytest.mark.parametrize(
    ('options', 'destdir', 'complaint'),
    [
        (['--frobnicate'], '/nowhere', 'unknown option --frobnicate'),
        (['--venv'], '/nowhere', '--venv needs a value'),
        (['--venv', '/no/such/directory'], '/nowhere', 'no such directory'),
        (['--python', '/bin/false'], '/nowhere', 'must be Python 3.11'),
        (['--check', '--uninstall'], '/nowhere', 'exclude each other'),
        (['--purge'], '/nowhere', 'goes with --uninstall'),
        ([], 'relative', 'must be an absolute path'),
    ],
)
def test_wrong_use_ends_with_status_2_and_the_reason(source, options, destdir, complaint):
    ran = install(source, destdir, *options)
    assert (ran.returncode, ran.stdout) == (2, '')
    assert complaint in ran.stderr


def test_install_below_destdir_needs_no_root_and_elsewhere_does(source):
    other = {'user': 'nobody', 'group': 'nogroup', 'extra_groups': []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as open_to_all:
        place = Path(open_to_all)
        place.chmod(0o777)
        shutil.copytree(source, place / 'source', symlinks=True)
        # An environment that anybody may enter; only its being complete is looked at.
        program = place / 'venv/bin/python'
        program.parent.mkdir(parents=True)
        program.write_text('#!/bin/sh\n')
        program.chmod(0o755)
        ran = install(place / 'source', place / 'root', '--venv', place / 'venv', cwd='/', **other)
        assert ran.returncode == 0, ran.stderr
        assert current(place / 'root').resolve().joinpath('worker.py').is_file()
        if os.geteuid() == 0:
            assert current(place / 'root').owner() == 'nobody'
        refused = install(place / 'source', '', '--venv', place / 'venv', cwd='/', **other)
        assert (refused.returncode, 'must run as root' in refused.stderr) == (2, True)


class LittleSystemd:
    """What `systemctl restart` of a Type=notify unit does.

    SIGTERM, wait for the end, start, wait for READY.
    """

    SYSTEMCTL = """#!/usr/bin/env python3
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[0] + '.socket')
asked.sendall('\\n'.join(sys.argv[1:]).encode())
asked.shutdown(socket.SHUT_WR)
answer = b''.join(iter(lambda: asked.recv(4096), b'')  # noqa: B023
).decode()
status, _, text = answer.partition('\\n')
sys.stdout.write(text)
sys.exit(int(status))
"""

    def __init__(self, root, env, directory):
        self.root, self.env, self.directory = root, env, directory
        self.units, self.restarted, self.broken = {}, [], set()
        self.numbers = itertools.count()
        stub = directory / 'systemctl'
        stub.write_text(self.SYSTEMCTL)
        stub.chmod(0o755)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f'{stub}.socket')
        self._listening.listen()
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def _serve(self):
        while True:
            try:
                asked, _ = self._listening.accept()
            except OSError:
                return
            with asked:
                read = iter(lambda: asked.recv(4096), b'')  # noqa: B023 - read here and now
                verb, *arguments = b''.join(read).decode().split('\n')
                if verb == 'list-units':
                    # systemctl sorts by name, whatever the order of the patterns
                    names = sorted(
                        unit
                        for unit in self.units
                        if any(fnmatch(unit, what) for what in arguments)
                    )
                    lines = [f'{unit} loaded active running Transactional e-mail' for unit in names]
                    answer = '\n'.join(['0', *lines, ''])
                else:
                    answer = f'{0 if self.restart(arguments[0]) else 1}\n'
                asked.sendall(answer.encode())

    def restart(self, unit):
        self.restarted.append(unit)
        if unit in self.broken:
            return False
        if unit in self.units:
            self.units[unit].terminate()
            assert self.units[unit].wait(DEADLINE_S) == 0
        self.start(unit)
        return True

    def start(self, unit):
        text = (self.root / UNITS / 'email-worker@.service').read_text()
        command = re.search('^ExecStart=(.*)$', text, re.MULTILINE)[1].replace(
            '${WORKER_SETTINGS}', 'worker.WorkerSettings'
        )
        program, *arguments = command.split()
        number = next(self.numbers)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            (self.directory / f'{number}.log').open('wb') as log,
        ):
            notified.bind(str(self.directory / f'notify-{number}'))
            notified.settimeout(0.1)
            env = self.env | {'NOTIFY_SOCKET': notified.getsockname()}
            self.units[unit] = subprocess.Popen(
                [f'{self.root}{program}', *arguments],
                cwd=current(self.root),
                env=env,
                stdout=log,
                stderr=log,
            )
            self._await_ready(unit, notified, Path(log.name))

    def _await_ready(self, unit, notified, log_path):
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with suppress(TimeoutError):
                assert b'READY=1' in notified.recv(4096)
                return
            assert self.units[unit].poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()

    def runs(self, unit):
        """The release whose code the unit's process runs."""
        return Path(f'/proc/{self.units[unit].pid}/cwd').resolve().name

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for process in self.units.values():
            process.send_signal(signal.SIGTERM)
        for process in self.units.values():
            process.wait(DEADLINE_S)


@pytest.fixture
def systemd(root, env, inbox, tmp_path):
    with tempfile.TemporaryDirectory() as directory:  # the path of a socket must be short
        little = LittleSystemd(root, env, Path(directory))
        yield little
        little.close()


def rolling_restart(systemd):
    return subprocess.run(
        [current(systemd.root) / 'deploy/rolling-restart.sh'],
        env={'PATH': f'{systemd.directory}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_update_under_load_delivers_every_email_once(
    source, root, systemd, redis, queue, inbox, pool
):
    old = current(root).resolve().name
    units = ['email-worker@1.service', 'email-worker@2.service']
    await asyncio.gather(*(asyncio.to_thread(systemd.start, unit) for unit in units))
    inbox.control.misbehave(
        'dot', 'stall', relay='primary', times=100_000, seconds=0.1
    )  # some always under way
    ids = []
    updated = asyncio.Event()

    async def trickle():
        while not updated.is_set() or len(ids) < 60:
            ids.append(await queue(f'user{len(ids)}@example.com'))
            await redis.enqueue_job('send_email', ids[-1])
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):  # 50 a second
                    await updated.wait()

    trickling = asyncio.create_task(trickle())
    await wait_until(lambda: inbox.accepted() or trickling.done())
    with (source / 'logs.py').open('a') as code:
        code.write('\nNEW = True\n')
    await asyncio.to_thread(installed, source, root)
    new = current(root).resolve().name
    assert old != new
    assert {systemd.runs(unit) for unit in systemd.units} == {old}
    ran = await asyncio.to_thread(rolling_restart, systemd)
    assert ran.returncode == 0, ran.stderr
    assert sorted(systemd.restarted) == units
    assert {systemd.runs(unit) for unit in systemd.units} == {new}
    updated.set()
    await trickling

    async def all_sent():
        return await pool.fetchval(
            "SELECT count(*) FROM outbound_emails WHERE status = 'sent'"
        ) == len(ids)

    await wait_until(all_sent)
    assert Counter(entry['rcpt_to'][0] for entry in inbox.accepted()) == Counter(
        {f'user{number}@example.com': 1 for number in range(len(ids))}
    )
    assert await pool.fetchval('SELECT max(attempts) FROM outbound_emails') == 1


def test_rolling_restart_stops_at_the_first_worker_that_does_not_get_ready(systemd):
    assert rolling_restart(systemd).returncode == 1  # nothing runs
    for unit in ('email-worker@1.service', 'email-worker@2.service'):
        systemd.units[unit] = subprocess.Popen(['cat'], stdin=subprocess.PIPE)
    systemd.broken.add('email-worker@1.service')
    ran = rolling_restart(systemd)
    assert (ran.returncode, systemd.restarted) == (1, ['email-worker@1.service'])
    assert 'email-worker@1.service did not become ready' in ran.stderr


def test_rolling_restart_restarts_the_web_page_last(systemd, monkeypatch):
    monkeypatch.setattr(systemd, 'restart', lambda unit: systemd.restarted.append(unit) or True)
    workers = ['email-worker.service', 'email-worker@1.service']
    with subprocess.Popen(['cat'], stdin=subprocess.PIPE) as process:
        systemd.units |= dict.fromkeys(
            ['email-web.service', 'postgresql.service', *workers], process
        )
        ran = rolling_restart(systemd)
        assert (ran.returncode, systemd.restarted) == (0, [*workers, 'email-web.service']), (
            ran.stderr
        )
        systemd.restarted.clear()
        systemd.units = {'email-web.service': process}  # a machine that only watches
        ran = rolling_restart(systemd)
        assert (ran.returncode, systemd.restarted) == (0, ['email-web.service']), ran.stderr
        systemd.units = {}
