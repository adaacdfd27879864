"""Run arq's own tests against the arq worker we run.

    python -m dev.arq_suite [--stock] [--no-events] [PYTEST ARGUMENT...]

Its source distribution ships them: pip fetches it (by hash), nothing of it is kept in the
repository. They run in an environment of their own, `.venv-arq`, against a Redis protocol server of
the stack, with our class in place of arq.worker.Worker. The tests we leave out, each with its
reason, are in the table of `dev.arq_suite_plugin`.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import redis

from dev.valkey import Valkey
from dev.watchdog import Watchdog

ROOT = Path(__file__).parent.parent
LOCK = ROOT / 'dev' / 'requirements-arq.txt'
ENVIRONMENT = ROOT / '.venv-arq'
PYTHON = ENVIRONMENT / 'bin' / 'python'
STAMP = ENVIRONMENT / '.installed'
PIP = (str(PYTHON), '-m', 'pip', '--quiet', '--disable-pip-version-check')
VERSION = '0.28.0'
SOURCE_SHA256 = 'a458188aefc2d7ee17d136f80d8fa8df1d6eba4ceebdead87e9f172d027dc311'
DEADLINE_S = 300
LOCAL_PASSWORD = 'loopback'  # noqa: S105 - the probe's; the tests then run without one
# arq takes every warning for an error. Its tests are for redis-py 4.6; of 5.3, which we run,
# close() and connections left to the garbage collector draw some.
QUIET = ('-W', 'ignore::DeprecationWarning', '-W', 'ignore::ResourceWarning')


def install() -> Path:
    """Make the environment, or bring it up to date; fetch and unpack the tests.

    Returns:
        The directory that has arq's pyproject.toml and tests/.
    Raises:
        subprocess.CalledProcessError: venv or pip failed; they have said why.
    """
    source = ENVIRONMENT / f'arq-{VERSION}'
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest() + SOURCE_SHA256
    if STAMP.exists() and STAMP.read_text() == wanted:
        return source
    print(f'installing what arq tests need into {ENVIRONMENT.name} ...', file=sys.stderr)
    subprocess.run([sys.executable, '-m', 'venv', '--clear', str(ENVIRONMENT)], check=True)
    (ENVIRONMENT / '.gitignore').write_text('*\n')
    subprocess.run([*PIP, 'install', '--require-hashes', '-r', str(LOCK)], check=True)
    with tempfile.TemporaryDirectory() as directory:
        unpack(fetch(Path(directory)), source)
    STAMP.write_text(wanted)
    return source


def fetch(directory: Path) -> Path:
    """Download the source distribution into a directory."""
    wanted = directory / 'wanted.txt'
    wanted.write_text(f'arq=={VERSION} --hash=sha256:{SOURCE_SHA256}\n')
    # pip asks the build backend for the metadata; without isolation it is the one of our lock.
    options = ('--no-deps', '--no-binary', 'arq', '--no-build-isolation', '--require-hashes')
    subprocess.run(
        [*PIP, 'download', *options, '--dest', str(directory), '-r', str(wanted)], check=True
    )
    return directory / f'arq-{VERSION}.tar.gz'


def unpack(archive: Path, source: Path) -> None:
    """Unpack the tests and their configuration; arq itself is the installed one, which we run."""
    with tarfile.open(archive) as tar:
        wanted = (f'{source.name}/tests/', f'{source.name}/pyproject.toml')
        members = [member for member in tar.getmembers() if member.name.startswith(wanted)]
        # Python before 3.11.4 knows no filter; pip has checked the archive's hash.
        tar.extractall(source.parent, members)  # noqa: S202 - see above


def run(source: Path, port: int, pytest_arguments: list[str], *, stock: bool) -> int:
    """Run the tests against the server on a port. Returns pytest's exit status."""
    env = os.environ | {
        'PYTHONPATH': str(ROOT),
        'ARQ_TESTS_REDIS_PORT': str(port),
        'ARQ_TESTS_STOCK': '1' * stock,
    }
    # Some count on a hundredth of a second, which a busy machine does not keep: such a one passes
    # the next time.
    options = [
        '-p',
        'dev.arq_suite_plugin',
        '-p',
        'no:cacheprovider',
        '-q',
        '-rxXR',
        '--reruns',
        '5',
        *QUIET,
    ]
    command = [str(PYTHON), '-m', 'pytest', *options, *pytest_arguments]
    try:
        return subprocess.run(
            command, cwd=source, env=env, check=False, timeout=DEADLINE_S
        ).returncode
    except subprocess.TimeoutExpired:
        print(
            f'not done in {DEADLINE_S} s, where 15 are enough: a test hangs; -v says which',
            file=sys.stderr,
        )
        return 1


def main() -> int:
    """Do what the command line says. Returns 0 when every test that counts has passed."""
    parser = argparse.ArgumentParser(
        description="arq's own tests against our worker; other arguments go to pytest"
    )
    parser.add_argument(
        '--stock', action='store_true', help="arq's own worker instead: what fails by itself here?"
    )
    parser.add_argument(
        '--no-events', action='store_true', help='a server that does not tell of new jobs'
    )
    options, pytest_arguments = parser.parse_known_args()
    source = install()
    with tempfile.TemporaryDirectory(prefix='arq-tests-') as directory, Watchdog() as watchdog:
        server = Valkey(Path(directory) / 'valkey', watchdog, LOCAL_PASSWORD)
        server.start()
        try:
            with redis.Redis(port=server.port, password=LOCAL_PASSWORD) as client:
                if options.no_events:
                    client.config_set('notify-keyspace-events', '')
                client.config_set('requirepass', '')  # the tests know of none
            return run(source, server.port, pytest_arguments, stock=options.stock)
        finally:
            server.stop()


if __name__ == '__main__':
    sys.exit(main())
