"""What a command imports before it does anything: that is what its start takes."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

OURS = {'email_worker', 'ops', 'configuration'}
# Slow to import, and needed by other programs, or by who has a MongoDB.
NOT_FOR_OPERATORS = {
    'aiosmtpd', 'attr', 'bson', 'fastapi', 'gridfs', 'jinja2', 'motor', 'pogo_core',
    'prometheus_client', 'pymongo', 'uvicorn', 'uvloop',
}  # fmt: skip
TELL = """
import atexit, json, runpy, sys
names = lambda: sorted({name.partition('.')[0] for name in sys.modules})
atexit.register(lambda: print(json.dumps(names()), file=sys.stderr))
before = set(names())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__')
"""


def imported_by(*words) -> set[str]:
    """Return the packages that a program has loaded at its end, but for the interpreter's own."""
    bare, ran = (
        subprocess.run(
            [sys.executable, '-c', TELL, *some], cwd=ROOT, capture_output=True, text=True,
            env={'DATABASE_URL': 'postgresql://u@localhost/x', 'MONGODB_URL': 'mongodb://h'},
            check=False,
        )
        for some in (['this'], words)
    )  # fmt: skip
    known = set(json.loads(bare.stderr)) | sys.stdlib_module_names
    return set(json.loads(ran.stderr.splitlines()[-1])) - known


@pytest.mark.parametrize(
    'words',
    [
        ['email_worker'], ['email_worker', '--help'], ['email_worker', '--version'],
        ['email_worker', 'run', '--help'], ['email_worker', 'web', '--help'],
        ['email_worker', 'ops', '--help'], ['email_worker', 'ops', 'statsu'], ['ops', '--help'],
    ],
    ids=' '.join,
)  # fmt: skip
def test_help_and_mistakes_import_nothing_but_the_parser(words):
    assert imported_by(*words) <= OURS


@pytest.mark.parametrize(
    'command', ['schedule', 'failed', 'find', 'status', 'retry', 'top', 'watch']
)
def test_command_of_operators_imports_no_web_server_and_no_mongodb(command):
    imported = imported_by('ops', *([command] if command == 'schedule' else [command, '--help']))
    assert 'reporting' in imported
    assert imported & NOT_FOR_OPERATORS == set()


def test_module_that_is_spared_is_there_for_who_uses_it():
    code = (
        'from ops.spare import spare_imports; spare_imports(); import redis.asyncio, sys; '
        "assert 'cryptography.x509' not in sys.modules; import jwt; from jwt import decode; "
        "import jwt.algorithms; print(len(jwt.encode({}, 'k' * 32).split('.')))"
    )
    ran = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == '3\n'
