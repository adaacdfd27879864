"""A machine to deploy on, booted once: Debian with its PostgreSQL and Redis, and a checkout.

Where systemd cannot be booted nothing here is tested. In CI that is a failure.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.systemd.machine import SYSTEMD, BootError, Machine
from tests.systemd.mailroom import Mailroom
from tests.systemd.walker import CHECKOUT, UPSTREAM, Walker

NEEDED = [
    Path(path)
    for path in ('/usr/bin/redis-server', '/usr/bin/pg_createcluster', '/usr/bin/git', SYSTEMD)
]
# What Debian's packages do when they are installed; where pip finds packages; an editor that types
# what it is given; a clone of the repository.
PREPARE = f"""
set -e
pg_createcluster "$(ls /usr/lib/postgresql | sort -n | tail -n 1)" main
systemctl restart postgresql
printf '[global]\\nno-index = true\\nfind-links = /srv/wheels\\n' > /etc/pip.conf
printf '#!/bin/sh\\ncat > "$1"\\n' > /usr/local/bin/editor
chmod 755 /usr/local/bin/editor
git config --global user.name us
git config --global user.email us@example.com
cd {UPSTREAM}
git init -q
git add -A
git commit -qm first
git clone -q {UPSTREAM} {CHECKOUT}
"""


def cannot(reason):
    """Skip, or fail in CI."""
    (pytest.fail if 'CI' in os.environ else pytest.skip)(f'systemd cannot be booted: {reason}')


@pytest.fixture(scope='session')
def wheels(pytestconfig):
    """What docs/deployment.md says to carry to a machine without the network."""
    lock = ROOT / 'requirements.txt'
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    place = pytestconfig.cache.mkdir(f'wheels-{digest}')
    if not (place / 'complete').exists():
        subprocess.run(
            [sys.executable, '-m', 'pip', '-q', 'download', '-r', lock, '-d', place],
            check=True, capture_output=True,
        )  # fmt: skip
        (place / 'complete').touch()
    return place


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """This work tree as it is, and nothing that git ignores."""
    place = tmp_path_factory.mktemp('source')
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.rstrip('\0').split('\0'):
        if (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name, follow_symlinks=False)
    return place


@pytest.fixture(scope='session')
def machine(tmp_path_factory, wheels, source):
    """Debian after `apt-get install`, with a clone of the program's repository."""
    if os.geteuid() != 0:
        cannot('only root can')
    if missing := [str(path) for path in NEEDED if not path.exists()]:
        cannot(f'no {", ".join(missing)}: apt-get install systemd postgresql redis-server')
    machine = Machine(tmp_path_factory.mktemp('machine'), 'mail')
    try:
        machine.start()
    except BootError as error:
        cannot(error)
    try:
        machine.copy(wheels, '/srv/wheels')
        machine.copy(source, UPSTREAM)
        machine.copy(ROOT / 'tests/systemd', '/srv/tests')
        machine.run(PREPARE)
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope='session')
def walker(machine):
    return Walker(machine)


@pytest.fixture(scope='session')
def mailroom(walker):
    return Mailroom(walker)
