"""A throw-away machine with Debian's systemd as PID 1 (boot.sh), and what root types on it."""

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BOOT = Path(__file__).with_name('boot.sh')
SYSTEMD = Path('/usr/lib/systemd/systemd')
NAMESPACES = ('--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup')
BOOT_DEADLINE_S = 60.0
COMMAND_DEADLINE_S = 300.0
# What a login of root's has; XDG and the like would lead out of it.
ENVIRONMENT = {
    'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'HOME': '/root',
    'USER': 'root',
    'LANG': 'C.UTF-8',
    'TERM': 'dumb',
}


class BootError(Exception):
    """The machine did not start; the text says why."""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    command: str
    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f'{self.command}: status {self.status}\n{self.out}{self.err}'


class Machine:
    """Runs between `start` and `stop`; everything it wrote is gone afterwards."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self._boot: subprocess.Popen[bytes] | None = None
        self._pid = ''

    def start(self) -> None:
        """Boot, until nothing is being started any more.

        Raises:
            BootError: namespaces, mounts or systemd are refused here.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._boot = subprocess.Popen(
            ['unshare', '--mount', BOOT, self.directory, self.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={'PATH': ENVIRONMENT['PATH']},
        )  # fmt: skip
        assert self._boot.stdout is not None
        self._pid = self._boot.stdout.readline().decode().strip()
        end = time.monotonic() + BOOT_DEADLINE_S
        while not self._is_up():
            if self._boot.poll() is not None or time.monotonic() > end:
                self.stop()
                assert self._boot.stderr is not None
                raise BootError(self._boot.stderr.read().decode().strip() or 'no answer')
            time.sleep(0.05)
        self.run('systemctl is-system-running --wait', status=None)

    def _is_up(self) -> bool:
        """Say whether systemd is PID 1, so that its root is the machine's, and answers."""
        try:
            if Path(f'/proc/{self._pid}/exe').readlink() != SYSTEMD:
                return False
        except OSError:
            return False
        said = self.run('systemctl is-system-running', status=None)
        return said.out.strip() not in ('', 'offline')

    def stop(self) -> None:
        """End PID 1, and with it everything that runs on it; unmount and remove all."""
        boot = self._boot
        if boot is None:
            return
        assert boot.stdin is not None
        boot.stdin.close()
        boot.wait(BOOT_DEADLINE_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(
        self, command: str, *, given: str = '', status: int | None = 0, directory: str = '/root'
    ) -> Said:
        """Type a command as root, with nobody at its terminal.

        Args:
            given: What it reads.
            status: The exit status it must have; None for any.
        """
        ran = subprocess.run(
            [*self._enter(directory), 'setsid', '--wait', 'bash', '-c', command],
            input=given, capture_output=True, text=True, errors='replace', env=ENVIRONMENT,
            timeout=COMMAND_DEADLINE_S, check=False,
        )  # fmt: skip
        said = Said(command, ran.returncode, ran.stdout, ran.stderr)
        assert status is None or said.status == status, str(said)
        return said

    def copy(self, source: Path, place: str) -> None:
        """Copy a directory's content into one of the machine's."""
        packing = ['tar', '-C', source, '-c', '--owner=0', '--group=0', '.']
        with subprocess.Popen(packing, stdout=subprocess.PIPE) as packed:
            unpacking = ['sh', '-c', 'mkdir -p "$0" && tar -C "$0" -x', place]
            subprocess.run(
                [*self._enter('/'), *unpacking], stdin=packed.stdout, env=ENVIRONMENT, check=True
            )
        assert packed.returncode == 0

    def _enter(self, directory: str) -> list[str]:
        return ['nsenter', f'--target={self._pid}', *NAMESPACES, f'--wdns={directory}']
