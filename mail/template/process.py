"""One renderer as its worker sees it: a process, what it was asked, and how long it takes."""

import asyncio
import os
import struct
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

LENGTH = struct.Struct('>I')
READ_AHEAD = 64  # requests it holds at once, so that neither side waits for the other
READ_AHEAD_BYTES = 2**20
MAX_ANSWER_BYTES = 256 * 2**20
LOOK_EVERY_S = 0.1
FROZEN_S = 20.0  # without an answer and without processor time: it was stopped
ROOT = Path(__file__).parents[2]
TICKS_PER_S = os.sysconf('SC_CLK_TCK')


class Request:
    """One e-mail's template."""

    def __init__(
        self,
        number: int,
        written: bytes,
        key: int,
        answer: asyncio.Future[Any],
        *,
        wants_all: bool = False,
    ) -> None:
        self.number = number
        self.written = written
        self.key = key  # the same for e-mails that are likely to take as long
        self.answer = answer
        self.wants_all = wants_all  # it was pushed: a renderer that has loaded all libraries
        self.alone = False  # a renderer died over it, or over another


class RendererProcess(asyncio.SubprocessProtocol):
    """A renderer, see mail/template/renderer.py."""

    def __init__(
        self,
        most_s: float,
        on_answer: Callable[['RendererProcess', Request, tuple[Any, ...]], None],
        on_end: Callable[['RendererProcess'], None],
    ) -> None:
        """Prepare; start() starts it.

        Args:
            most_s: Processor time over one request after which it is killed.
            on_answer: Called with each request and its answer, without its number.
            on_end: Called once, when it has ended; `asked` holds what it did not answer.
        """
        self.asked: deque[Request] = deque()
        self.asked_bytes = 0
        self.ready = False
        self.has_all = False  # the libraries that pushed templates need
        self.retires = False
        self.ended = asyncio.Event()
        self.returncode: int | None = None
        self.watchdog = Watchdog(self, most_s)
        self._on_answer = on_answer
        self._on_end = on_end
        self._received = bytearray()
        self._transport: Any = None  # uvloop's is no asyncio.SubprocessTransport
        self._input: Any = None

    async def start(self, max_chars: int, *, with_all: bool = False) -> None:
        """Start it; with_all libraries that pushed templates need.

        Raises:
            OSError: the system cannot: no memory, no process left.
        """
        # Without the worker's environment, which may hold passwords, and in a session of its own:
        # Ctrl-C is not for it.
        environment = {
            name: os.environ[name] for name in ('PATH', 'PYTHONPATH', 'LANG') if name in os.environ
        }
        self.has_all = with_all
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self, sys.executable, '-m', 'mail.template.renderer', str(max_chars),
            *(['pushed'] if with_all else []),
            stdin=-1, stdout=-1, stderr=None, cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip

    def has_room(self) -> bool:
        """Whether it can be asked for more now."""
        return (
            self.ready
            and not self.retires
            and not self.ended.is_set()
            and len(self.asked) < READ_AHEAD
            and self.asked_bytes < READ_AHEAD_BYTES
            and not (self.asked and self.asked[-1].alone)
        )

    def serves(self, request: Request) -> bool:
        """Whether it has what the request needs."""
        return self.has_all or not request.wants_all

    def ask(self, *requests: Request) -> None:
        """Send requests, in one write."""
        self.asked.extend(requests)
        self.asked_bytes += sum(len(request.written) for request in requests)
        self._input.write(b''.join(request.written for request in requests))
        self.watchdog.watch()

    def retire(self) -> None:
        """End it once it has answered."""
        self.retires = True
        if not self.asked:
            self.kill()

    def end(self) -> None:
        """Let it end by itself: it has no more input."""
        if self._input is not None:
            self._input.close()

    def kill(self) -> None:
        """End it at once."""
        self.watchdog.stop()
        if self._transport is not None and not self.ended.is_set():
            self._transport.kill()
            self._transport.close()

    # What asyncio reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note how to reach it."""
        self._transport = transport
        self._input = self._transport.get_pipe_transport(0)
        self.watchdog.start(self._transport.get_pid())

    def pipe_data_received(self, _: int, data: bytes | str) -> None:
        """Read answers."""
        received = self._received
        received += data  # type: ignore[arg-type]  # asyncio never passes text
        start = 0
        try:
            while len(received) >= start + LENGTH.size:
                (length,) = LENGTH.unpack_from(received, start)
                end = start + LENGTH.size + length
                if length > MAX_ANSWER_BYTES:
                    raise ValueError('too long')  # noqa: TRY301 - one end for all that is no answer
                if len(received) < end:
                    break
                self._take(*orjson.loads(bytes(received[start + LENGTH.size : end])))
                start = end
        except (ValueError, TypeError, IndexError):
            self.kill()  # whoever breaks out of the sandbox can write anything
        del received[:start]

    def _take(self, number: int, *answer: Any) -> None:
        if not self.ready:
            self.ready = True
            self.watchdog.note_first()
            self._on_answer(self, READY, answer)
            return
        if number != self.asked[0].number or not _is_answer(*answer):
            raise ValueError('not an answer')
        request = self.asked.popleft()
        self.asked_bytes -= len(request.written)
        self._on_answer(self, request, answer)

    def process_exited(self) -> None:
        """Note that it is gone. What it wrote before was read, or is lost with it."""
        self.watchdog.stop()
        self.returncode = self._transport.get_returncode()
        self.ended.set()
        self._transport.close()
        self._on_end(self)


class Watchdog:
    """Ends a renderer that takes too long over the first of its requests.

    Processor time counts: a busy machine is no e-mail's fault. It counts from the moment the
    renderer is ready, because starting Python and importing Jinja2 takes about as much of it as an
    e-mail has in the fast renderer, and more on a loaded machine.

    Attributes:
        overran: It was ended for what it used.
        frozen: It was ended though it used nothing.
        culprit: What it was at when it was ended.
    """

    def __init__(self, renderer: RendererProcess, most_s: float) -> None:
        self.overran = False
        self.frozen = False
        self.culprit: Request | None = None
        self._renderer = renderer
        self._most_s = most_s
        self._pid: int | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._first: Request | None = None  # the first one asked, at the last look
        self._began_cpu_s = 0.0  # when it began to be the first
        self._seen_cpu_s = 0.0
        self._progress_at = 0.0  # when its processor time last went on

    def start(self, pid: int) -> None:
        """Look at this process from now on."""
        self._pid = pid
        self.watch()

    def watch(self) -> None:
        """Look at it until it has nothing to do."""
        if self._timer is None:
            self.note_first()
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Look at it no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def used_s(self) -> float:
        """Return the processor time that the first request asked has taken so far."""
        return self._state()[0] - self._began_cpu_s

    def note_first(self) -> None:
        """Count its processor time from now on for the first request."""
        asked = self._renderer.asked
        self._first = asked[0] if asked else None
        self._began_cpu_s = self._seen_cpu_s = self._state()[0]
        self._progress_at = self._loop.time()

    def _look(self) -> None:
        self._timer = None
        ready, asked = self._renderer.ready, self._renderer.asked
        if ready and not asked:
            return
        if ready and self._first is not asked[0]:
            self.note_first()
        cpu_s, number = self._state()
        if cpu_s > self._seen_cpu_s:
            self._seen_cpu_s, self._progress_at = cpu_s, self._loop.time()
        self.overran = ready and cpu_s - self._began_cpu_s > self._most_s
        self.frozen = not self.overran and self._loop.time() - self._progress_at > FROZEN_S
        if self.overran or self.frozen:
            self.culprit = next((request for request in asked if request.number == number), None)
            self._renderer.kill()
        else:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def _state(self) -> tuple[float, int]:
        """Return the processor time used, in seconds, and the number of the request it is at.

        Where the kernel does not tell, the time that passes stands for the former.
        """
        try:
            stat = Path(f'/proc/{self._pid}/stat').read_bytes()
            name, _, rest = stat.partition(b'(')[2].rpartition(b')')
            used = rest.split()
            number = name.removeprefix(b'mail ')
            cpu_s = (int(used[11]) + int(used[12])) / TICKS_PER_S
            return cpu_s, int(number) if number.isdigit() else 0
        except (OSError, ValueError, IndexError):
            return self._loop.time(), 0


def _is_answer(*answer: Any) -> bool:
    """Whether this is what mail/template/renderer.py writes after a number."""
    match answer:
        case [[subject, text, html]]:
            return all(part is None or isinstance(part, str) for part in (subject, text, html))
        case ['wrong' | 'memory', str()]:
            return True
        case _:
            return False


# Stands for the first answer, which nobody asked for.
READY = Request(0, b'', 0, None)  # type: ignore[arg-type]
