"""The old application's processes.

Celery workers and beat, the part that queues e-mails, the ORM client.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil

from bench.environments import ROOT, Environment
from dev.processes import Command, last_lines, log_since, process_tree, spawn
from dev.watchdog import Watchdog
from tests.chaos.waiting import until

HERE = Path(__file__).resolve().parent
OLD = Environment('the old application', ROOT / '.venv-rehearsal', HERE / 'requirements-celery.txt')
QUEUES = 'celery,high_priority,low_priority'
PROCESSES = 2
START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 60.0
ANSWER_DEADLINE_S = 120.0
# What a task that failed by a fault of the database or of its own logs; a refusal is retried and
# logs another line.
ALARMS = ('raised unexpected', 'Traceback (most recent call last)')


class Client:
    """A program of the application that lives as long as its standard input."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self.module = module
        self.process = process
        self.rounds = 0
        self._reading: asyncio.Task[None] | None = None

    def keep_reading(self) -> None:
        """Count the lines it writes by itself, from now on."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for _ in self.process.stdout:
            self.rounds += 1

    async def answer(self) -> Any:
        """Return the next line it writes, read as JSON."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_DEADLINE_S)
        if not line:
            raise RuntimeError(f'{self.module} has ended with status {await self.process.wait()}')
        self.rounds += 1
        return json.loads(line)

    async def order(self, **order: Any) -> Any:
        """Have it do something, and wait until that is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b'\n')
        await self.process.stdin.drain()
        return await self.answer()

    async def end(self) -> None:
        """Close its standard input and wait for its end."""
        if self.process.stdin is None or self.process.stdout is None:
            return
        self.process.stdin.close()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await (self._reading or self.process.stdout.read())
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class OldSystem:
    """Celery as systemd has it: workers in one unit, beat in another; each start is a new log."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment | {'PYTHONPATH': str(HERE), 'PYTHONUNBUFFERED': '1'}
        self.logs: list[Path] = []
        self._running: list[subprocess.Popen[bytes]] = []
        self._watchdog = Watchdog()
        self._clients: list[Client] = []

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    async def start(self) -> None:
        """Start worker and beat, and return when the worker takes messages."""
        number = len(self.logs)
        log = self.directory / f'celery-{number}.log'
        self.logs.append(log)
        worker = [
            'worker',
            '-c',
            str(PROCESSES),
            '-Q',
            QUEUES,
            '-l',
            'INFO',
            '-n',
            f'old{number}@%h',
        ]
        beat = ['beat', '-s', str(self.directory / f'beat-{number}'), '--pidfile=']
        self._spawn(worker, log)
        self._spawn(beat, self.directory / f'beat-{number}.log')
        await until(
            lambda: ' ready.' in log_since(log, 0) or self._has_died(),
            START_DEADLINE_S,
            'Celery ready',
        )
        if self._has_died():
            raise RuntimeError(f'Celery did not start:\n{last_lines(log_since(log, 0))}')

    def _has_died(self) -> bool:
        return any(process.poll() is not None for process in self._running)

    def _spawn(self, words: list[str], log: Path) -> None:
        argv = [OLD.program('celery'), '-A', 'old_app.app', *words]
        command = Command(
            argv, cwd=self.directory, environment=self.environment | {'C_FORCE_ROOT': '1'}
        )
        self._running.append(spawn(command, log, self._watchdog))

    async def stop(self, ending: str) -> None:
        """End beat and the workers: in order, or as a machine that loses power does."""
        for process in reversed(self._running):
            if ending == 'KILL':
                kill_tree(process)
            else:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            await until(lambda p=process: p.poll() is not None, STOP_DEADLINE_S, 'end of Celery')
            self._watchdog.forget(process.pid)
        self._running = []

    async def client(self, module: str) -> Client:
        """Start a program of the application."""
        return await self.started(OLD.program('python'), module, self.environment)

    async def started(self, python: str, module: str, environment: dict[str, str]) -> Client:
        """Start a program that lives as long as its standard input."""
        with (self.directory / f'{module}.log').open('ab') as log:
            process = await asyncio.create_subprocess_exec(
                python, '-m', module, cwd=self.directory, env=environment, stderr=log,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        client = Client(module, process)
        self._clients.append(client)
        return client

    def alarms(self) -> list[str]:
        """Return lines that no worker of Celery's should have logged, shortened, each
        once a log.
        """
        found = []
        for log in self.logs:
            lines = log_since(log, 0).splitlines()
            for alarm in ALARMS:
                hits = [line for line in lines if alarm in line]
                found += [f'{log.name}: {len(hits)} x {hit[:300]}' for hit in hits[:1]]
        return found

    async def close(self) -> None:
        """End what still runs, whatever happened before."""
        for client in self._clients:
            await client.end()
        for process in self._running:
            kill_tree(process)
            process.wait()
        self._watchdog.close()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process with its children; stopped first, it replaces none of them."""
    process.send_signal(signal.SIGSTOP)
    for member in process_tree(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
