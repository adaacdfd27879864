"""The wheel: what an application gets by `pip install`."""

import subprocess
import sys
import sysconfig
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ROOT

IMPORT_MS = 50
# In a process of its own, without the checkout: the wheel, and the packages that are installed.
RUN = 'import sys; sys.path[:0] = {paths!r}; {code}'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '--disable-pip-version-check', '-q']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', *options, '-w', directory, ROOT],
        check=True,
        capture_output=True,
    )
    [built] = directory.glob('*.whl')
    return built


@pytest.fixture(scope='module')
def installed(wheel: Path) -> Path:
    directory = wheel.parent / 'site-packages'
    with ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def run(installed: Path, code: str) -> str:
    paths = [str(installed), sysconfig.get_path('purelib')]
    said = subprocess.run(
        [sys.executable, '-I', '-S', '-c', RUN.format(paths=paths, code=code)],
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def test_wheel_has_mail_outbox_whole_and_nothing_else_of_ours(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'mail_outbox').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert {name for name in names if '.dist-info/' not in name} == ours
    assert 'mail_outbox/py.typed' in ours


def test_version_and_dependencies_are_those_of_the_project(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith('/METADATA')]
        metadata = Parser().parsestr(archive.read(name).decode())
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert (metadata['Name'], metadata['Version']) == ('mail-outbox', project['version'])
    needed = [line for line in metadata.get_all('Requires-Dist') or [] if 'extra ==' not in line]
    assert [line.partition('<')[0] for line in needed] == ['email-validator']


def test_it_is_imported_from_the_wheel_alone_and_without_the_worker(installed: Path) -> None:
    code = (
        'import mail_outbox, importlib.util; '
        'print(mail_outbox.__file__, importlib.util.find_spec("db"), '
        'importlib.util.find_spec("worker"))'
    )
    assert run(installed, code) == f'{installed}/mail_outbox/__init__.py None None'


def test_importing_it_takes_little_time(installed: Path) -> None:
    # Of the processor, at best: others are at work on this machine. At first it is compiled.
    code = 'import time; start = time.process_time(); import mail_outbox; '
    took = [float(run(installed, code + 'print(time.process_time() - start)')) for _ in range(12)]
    assert min(took[1:]) * 1000 < IMPORT_MS, took
