"""docs/deployment.md: what it tells to type is there, and is understood."""

import re
import shlex
import shutil
import subprocess

import pytest

from db.checkup import TABLES
from ops.__main__ import make_parser
from tests.conftest import ROOT

TEXT = (ROOT / 'docs/deployment.md').read_text()
BLOCKS = re.findall(r'```sh\n(.*?)```', TEXT, re.DOTALL)


def test_every_block_is_shell():
    assert len(BLOCKS) >= 10
    for block in BLOCKS:
        checked = subprocess.run(
            ['bash', '-n'], input=block, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, f'{block}\n{checked.stderr}'


def test_every_file_of_ours_exists():
    named = set(re.findall(r'\b((?:deploy|docs)/[\w.@-]*\w)', TEXT)) | set(
        re.findall(r'\]\(([\w.]+\.md)\)', TEXT)
    )
    assert {'deploy/install.sh', 'deploy/backup.sh', 'deploy/nftables.conf', 'metrics.md'} <= named
    missing = {
        name for name in named if not (ROOT / name).exists() and not (ROOT / 'docs' / name).exists()
    }
    assert missing == set()


def test_every_operators_command_is_understood():
    commands = re.findall(r'email-worker (?:--env \S+ )?ops ([^`#\n]+)', TEXT)
    assert len(commands) >= 3
    for command in commands:
        make_parser().parse_args(shlex.split(command.partition(' from ')[0]))


@pytest.mark.parametrize('option', sorted(set(re.findall(r'install\.sh[^\n]*?(--[a-z-]+)', TEXT))))
def test_every_option_of_the_installer_exists(option):
    script = (ROOT / 'deploy/install.sh').read_text()
    assert re.search(rf'^ +(?:--[a-z-]+ \| )*{option}(?: \||\))', script, re.MULTILINE)


def test_loop_that_sets_redis_passwords_leaves_none_to_change(tmp_path):
    (loop,) = (line for line in TEXT.splitlines() if line.startswith('for user in'))
    users = shutil.copy(ROOT / 'deploy/redis-users.acl', tmp_path / 'users.acl')
    subprocess.run(['bash', '-ec', loop.replace('/etc/redis/users.acl', str(users))], check=True)
    passwords = re.findall(r' >([0-9a-f]{48}) ', users.read_text())
    assert 'CHANGE' not in users.read_text()
    assert len(set(passwords)) == 6


def test_wheels_that_one_python_fetched_serve_every_patch_version_of_it():
    lock = (ROOT / 'requirements.txt').read_text()
    assert re.findall('^(.*python_full_version.*)$', lock, re.MULTILINE) == []


def test_backup_has_every_table_that_is_not_the_applications():
    saved = set(re.findall(r'--table=(\w+)', (ROOT / 'deploy/backup.sh').read_text()))
    assert set(TABLES) - {'sessions', 'refresh_tokens'} <= saved
