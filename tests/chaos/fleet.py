"""The workers of a scenario.

Real processes, started as `arq worker.WorkerSettings`, killed by their id.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dev.processes import Command, last_lines, log_since, spawn
from dev.watchdog import Watchdog
from tests.chaos.waiting import DeadlinePassedError, until

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 60.0
# What a worker must never log; a scenario that sees one of these says so below the table.
ALARMS = ('Traceback', 'attempt.crashed', 'attempt.not_recorded', 'duty.failed')
ALARM_CHARS = 240


@dataclass(eq=False)
class Worker:
    """One worker process."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    started_at: float = field(default_factory=time.time)
    ended_by_us: bool = False

    @property
    def identity(self) -> str:
        """The name it signs its claims with."""
        return f'{self.name}@{socket.gethostname()}:{self.process.pid}'

    @property
    def log(self) -> str:
        return log_since(self.log_path, 0)

    @property
    def is_up(self) -> bool:
        return self.process.poll() is None and 'worker.started' in self.log

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None


class Fleet:
    """Starts, kills and stops workers, and remembers every kill."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment
        self.workers: list[Worker] = []
        self.kills: dict[str, float] = {}  # identity -> time.time() of its SIGKILL or SIGSEGV
        self._watchdog = Watchdog()

    @property
    def up(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.ended_by_us and worker.is_up]

    @property
    def died(self) -> list[Worker]:
        """Workers that ended although nobody ended them."""
        return [worker for worker in self.workers if worker.has_ended and not worker.ended_by_us]

    def start(
        self,
        target: str = 'worker.WorkerSettings',
        wrap: Callable[[list[str]], list[str]] = list,
        **variables: str,
    ) -> Worker:
        """Start one; it is up some time later.

        Args:
            wrap: Makes its command the argument of another, which must become it.
        """
        name = f'w{len(self.workers)}'
        log_path = self.directory / f'{name}.log'
        environment = self.environment | {'WORKER_NAME': name, 'PYTHONPATH': str(ROOT)} | variables
        argv = [str(Path(sys.executable).with_name('arq')), target]
        # Not in the project's directory: a developer's .env must not count.
        command = Command(wrap(argv), cwd=self.directory, environment=environment)
        worker = Worker(name, spawn(command, log_path, self._watchdog), log_path)
        self.workers.append(worker)
        return worker

    async def started(self, *workers: Worker) -> None:
        """Wait until these workers are up."""
        for worker in workers:
            await until(
                lambda w=worker: w.is_up or w.has_ended, START_DEADLINE_S, f'{worker.name} up'
            )
            if worker.has_ended:
                raise RuntimeError(f'{worker.name} did not start:\n{last_lines(worker.log)}')

    async def start_up(self, count: int, **variables: str) -> list[Worker]:
        workers = [self.start(**variables) for _ in range(count)]
        await self.started(*workers)
        return workers

    def kill(self, worker: Worker, how: signal.Signals = signal.SIGKILL) -> float:
        """End a worker without warning. Returns the time of the kill."""
        worker.ended_by_us = True
        worker.process.send_signal(how)
        killed_at = self.kills[worker.identity] = time.time()
        worker.process.wait()
        self._watchdog.forget(worker.process.pid)
        return killed_at

    async def stop(self, worker: Worker) -> int:
        """SIGTERM, and wait for the end in order. Returns the exit status."""
        worker.ended_by_us = True
        worker.process.terminate()
        await until(
            lambda: worker.has_ended, STOP_DEADLINE_S, f'end of {worker.name} after SIGTERM'
        )
        self._watchdog.forget(worker.process.pid)
        return worker.process.returncode

    async def stop_all(self) -> list[str]:
        """Stop all in order. Returns what was wrong.

        Workers that died before, or did not end as they should.
        """
        problems = [
            (
                f'{worker.name} ended by itself with status '
                f'{worker.process.returncode}:\n{last_lines(worker.log)}'
            )
            for worker in self.died
        ]
        running = [worker for worker in self.workers if not worker.has_ended]
        starting = [worker for worker in running if not worker.is_up]
        for worker in running:
            worker.ended_by_us = True
            worker.process.terminate()
        for worker in running:
            try:
                await until(
                    lambda w=worker: w.has_ended,
                    STOP_DEADLINE_S,
                    f'end of {worker.name} after SIGTERM',
                )
            except DeadlinePassedError as passed:
                problems.append(f'{passed}:\n{last_lines(worker.log)}')
                continue
            # One that was started a moment ago may not listen to signals yet, and holds nothing.
            if worker.process.returncode not in (
                (0, -signal.SIGTERM) if worker in starting else (0,)
            ):
                problems.append(
                    f'{worker.name} ended with status {worker.process.returncode} after SIGTERM'
                )
        return problems

    def alarms(self) -> list[str]:
        """Return the lines that no worker should have logged, shortened, each kind once
        a worker.
        """
        found = []
        for worker in self.workers:
            lines = worker.log.splitlines()
            for alarm in ALARMS:
                hits = [line for line in lines if alarm in line]
                if hits:
                    found.append(f'{worker.name}: {len(hits)} x {hits[0][:ALARM_CHARS]}')
        return found

    def close(self) -> None:
        """End what still runs, whatever happened before."""
        for worker in self.workers:
            if not worker.has_ended:
                worker.process.kill()
                worker.process.wait()
        self._watchdog.close()
