"""Filling stored templates for a worker, in processes of their own.

Whoever may edit a template, or fills its data, can make it run for ever or take all memory, and
nothing inside a Python process stops that.

One renderer is fast and stays: many e-mails are asked of it in one write. What takes it longer than
FAST_S of processor time is asked again in a renderer of its own, one after the other, where it has
the whole budget and the verdict concerns nobody else: over the budget of time or memory, it is
wrong. So an e-mail without fault waits for a hostile one no longer than FAST_S and the start of
another renderer. Renderers are started when the first template is to be filled.
"""

import asyncio
import contextlib
import itertools
import signal
import time
from collections import deque
from typing import Any

import structlog

from mail.template.asking import UNSUBSCRIBE_URL, Filled, make_request
from mail.template.process import READ_AHEAD, RendererProcess, Request
from mail_outbox.envelope import InvalidEmailError, Template

log = structlog.get_logger()

FAST_S = 0.1  # of processor time
SLOW_S = 10.0  # the renderer's own limit, 2 s, ends it long before
MAX_STARTS = 3  # of a renderer that ends before it is ready; then nobody waits for it any more
# E-mails; others are given back meanwhile, so that slow ones do not take all of the worker.
SLOW_WAITING = 8
REMEMBERED_S = 60.0  # how long e-mails like one that was slow are not tried in the fast renderer
MAX_REMEMBERED = 1000
CLOSE_S = 5.0
END_S = 0.5  # to end by itself, unless it is busy
TOO_LONG = 'it takes more than 2 s of processor time'
TOO_DEEP = 'it ended its renderer: out of memory, or nested too deep'
# How a renderer ends that one e-mail ended: out of time, or a fault in C that it provoked.
FATAL: dict[int, str] = {
    signal.SIGPROF: TOO_LONG,
    signal.SIGXCPU: TOO_LONG,
    signal.SIGSEGV: TOO_DEEP,
    signal.SIGABRT: TOO_DEEP,
    signal.SIGBUS: TOO_DEEP,
}


class TemplatesUnavailableError(Exception):
    """No renderer could be started, or none is free for slow e-mails; the e-mail may be sound."""


class Templates:
    """The renderers of one worker."""

    def __init__(self, max_chars: int) -> None:
        """Prepare.

        Args:
            max_chars: How long a filled part may become.
        """
        self._max_chars = max_chars
        self._numbers = itertools.count(1)
        self._waiting: deque[Request] = deque()  # for the fast renderer
        self._slow: deque[Request] = deque()
        self._slow_keys: dict[int, float] = {}  # until when, by Request.key
        self._fast: RendererProcess | None = None
        self._lone: RendererProcess | None = None  # the one for a slow e-mail
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed_starts = 0  # in a row
        self._closed = False
        self._with_all = False  # a pushed template came: renderers load what these need
        self._pump_wanted = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def fill(
        self,
        template: Template,
        data: str | None,
        *,
        locale: str | None = None,
        unsubscribe_url: str | None = None,
        check: bool = False,
        first: bool = False,
    ) -> Filled:
        """Fill a template.

        Args:
            data: A JSON object, not yet parsed.
            locale: Of the e-mail, for a pushed template.
            unsubscribe_url: A variable of this name, unless the data has one.
            check: Look also for what this data does not show, see pushed.fill_pushed.
            first: Before all others that wait, for an urgent e-mail.
        Raises:
            InvalidEmailError: the template or the data is wrong, or takes too much time or memory;
                says which.
            TemplatesUnavailableError: nothing is known to be wrong with it; to be tried later.
        """
        self._loop = asyncio.get_running_loop()
        own = {} if unsubscribe_url is None else {UNSUBSCRIBE_URL: unsubscribe_url}
        request = make_request(next(self._numbers), template, data, locale, own, check=check)
        self._with_all |= request.wants_all
        key = request.key
        if self._slow_keys and self._slow_keys.get(key, 0.0) > time.monotonic():
            self._ask_slow(request)
        else:
            if first:
                self._waiting.appendleft(request)
            else:
                self._waiting.append(request)
            self._pump_soon()
        filled: Filled = await request.answer
        return filled

    async def close(self) -> None:
        """End the renderers. Nobody is to wait for an e-mail any more."""
        self._closed = True
        if self._tasks:  # one is just being started
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for renderer in (self._fast, self._lone):
            if renderer is not None:
                renderer.end()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(renderer.ended.wait(), END_S)
                renderer.kill()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(renderer.ended.wait(), CLOSE_S)

    # The fast renderer.

    def _pump_soon(self) -> None:
        """Send what e-mails ask for in this turn of the loop in one write."""
        if not self._pump_wanted and self._loop is not None:
            self._pump_wanted = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_wanted = False
        while self._waiting and self._waiting[0].answer.done():  # given up meanwhile
            self._waiting.popleft()
        if not self._waiting or self._closed:
            return
        if self._fast is None:
            self._fast = RendererProcess(FAST_S, self._answered, self._fast_ended)
            self._start(self._fast, self._waiting)
        elif self._fast.ready and (self._fast.retires or not self._fast.serves(self._waiting[0])):
            self._fast.retire()  # the next one has all
        elif self._fast.has_room() and (asked := self._next_together(self._fast)):
            self._fast.ask(*asked)

    def _next_together(self, renderer: RendererProcess) -> list[Request]:
        """Take from those that wait what can be asked in one write; a suspect goes alone."""
        together: list[Request] = []
        most = READ_AHEAD - len(renderer.asked)
        while self._waiting and len(together) < most and renderer.serves(self._waiting[0]):
            if self._waiting[0].alone:
                if not (together or renderer.asked):
                    together.append(self._waiting.popleft())
                break
            request = self._waiting.popleft()
            if not request.answer.done():
                together.append(request)
        return together

    def _fast_ended(self, renderer: RendererProcess) -> None:
        self._fast = None
        left = list(renderer.asked)
        if not renderer.ready:
            self._not_started(self._waiting, renderer)
        elif renderer.returncode == 0:  # it keeps too much, see mail/template/renderer.py
            self._waiting.extendleft(reversed(left))
        elif culprit := renderer.watchdog.culprit or (left[0] if len(left) == 1 else None):
            left.remove(culprit)
            self._waiting.extendleft(reversed(left))
            self._remember(culprit)
            self._ask_slow(culprit)
        else:
            # Its answers to some of them were lost, so nobody knows which it was: one at a time.
            for request in left:
                request.alone = True
            self._waiting.extendleft(reversed(left))
        self._pump_soon()

    # Renderers for one e-mail.

    def _remember(self, request: Request) -> None:
        if len(self._slow_keys) >= MAX_REMEMBERED:
            self._slow_keys.clear()
        self._slow_keys[request.key] = time.monotonic() + REMEMBERED_S

    def _ask_slow(self, request: Request) -> None:
        if len(self._slow) >= SLOW_WAITING:
            why = 'templates that take long wait for their turn'
            _settle(request, TemplatesUnavailableError(why))
            return
        self._slow.append(request)
        self._pump_slow()

    def _pump_slow(self) -> None:
        while self._slow and self._slow[0].answer.done():
            self._slow.popleft()
        if self._slow and self._lone is None and not self._closed:
            self._lone = RendererProcess(SLOW_S, self._answered_alone, self._lone_ended)
            self._start(self._lone, self._slow)

    def _answered_alone(
        self, renderer: RendererProcess, request: Request, answer: tuple[Any, ...]
    ) -> None:
        if request.number:
            if (
                len(answer) == 1 and renderer.watchdog.used_s() < FAST_S
            ):  # it was the data of another one
                self._slow_keys.pop(request.key, None)
            self._settle_by(request, answer)
            renderer.kill()
        elif self._slow:
            renderer.ask(self._slow.popleft())
        else:
            renderer.kill()

    def _lone_ended(self, renderer: RendererProcess) -> None:
        self._lone = None
        for request in renderer.asked:
            verdict = (
                TOO_LONG if renderer.watchdog.overran else FATAL.get(-(renderer.returncode or 0))
            )
            if verdict is None:
                _settle(request, TemplatesUnavailableError(f'a renderer ended: {_how(renderer)}'))
            else:
                _settle(request, InvalidEmailError(f'template: {verdict}'))
        if not renderer.ready:
            self._not_started(self._slow, renderer)
        self._pump_slow()

    # Both.

    def _start(self, renderer: RendererProcess, for_whom: deque[Request]) -> None:
        async def start() -> None:
            try:
                await renderer.start(self._max_chars, with_all=self._with_all)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits
                if renderer is self._fast:
                    self._fast = None
                else:
                    self._lone = None
                self._fail(for_whom, f'a renderer could not start: {error}')

        task = asyncio.ensure_future(start())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _not_started(self, for_whom: deque[Request], renderer: RendererProcess) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_STARTS:
            self._failed_starts = 0
            self._fail(for_whom, f'a renderer could not start: {_how(renderer)}')

    def _answered(self, _: RendererProcess, request: Request, answer: tuple[Any, ...]) -> None:
        self._failed_starts = 0
        if request.number:
            if answer[0] == 'memory':  # others may have left it too little
                self._remember(request)
                self._ask_slow(request)
            else:
                self._settle_by(request, answer)
        self._pump_soon()

    def _settle_by(self, request: Request, answer: tuple[Any, ...]) -> None:
        if len(answer) == 1:
            _settle(request, tuple(answer[0]))
        else:
            _settle(request, InvalidEmailError(answer[1]))

    def _fail(self, requests: deque[Request], why: str) -> None:
        log.error('templates.unavailable', error=why, emails=len(requests))
        while requests:
            _settle(requests.popleft(), TemplatesUnavailableError(why))


def _settle(request: Request, answer: Filled | Exception | tuple[Any, ...]) -> None:
    if request.answer.done():  # nobody waits any more
        return
    if isinstance(answer, Exception):
        request.answer.set_exception(answer)
    else:
        request.answer.set_result(answer)


def _how(renderer: RendererProcess) -> str:
    code = renderer.returncode or 0
    if renderer.watchdog.frozen:
        return 'it did not answer'
    return f'signal {-code}' if code < 0 else f'exit status {code}'
