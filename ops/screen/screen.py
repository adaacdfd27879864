"""The screen: one loop takes keys, looks and answers, one after the other, and draws."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ops.connect import Connections
from ops.parser import as_typed
from ops.screen.acts import ScreenAct, pause_or_resume, send_again
from ops.screen.details import load_explanation, load_failed, load_mail, target_lines
from ops.screen.keys import keyboard
from ops.screen.lines import ScreenLine, ScreenTarget, plain_line, wrapped_lines
from ops.screen.look import FleetLook, look_at_fleet, with_older
from ops.screen.overview import body_lines, head_lines, problem_lines
from ops.screen.state import MOVES, ScreenPage, ScreenQuestion
from reporting.live import Audience
from reporting.problems import ProblemError
from reporting.seen_at import with_page
from reporting.wording import cell

KEYS = 'j/k enter open  p pause  r retry  e explain  w what is wrong  ? help  q quit'
KEYS_BELOW = 'escape back  j/k enter open  p pause  r retry  e explain  ? help  q quit'
HELP = (
    'j, k, arrows    move; space, page up and down, g, G: further',
    'enter           open a worker, queue, type, relay or e-mail',
    'escape          back; also left and backspace',
    'tab             the next table',
    'p               pause or resume: a queue, type or relay over restarts, with a',
    '                reason; a worker until it is restarted',
    'r               send an e-mail again',
    'w               all that is wrong, and what to do',
    'e               why an e-mail is not sent, when it will be, what to do',
    'q, Ctrl-C       leave',
    '',
    'Nothing is done before it was confirmed; the audit has all of it.',
    'Of a server that does not answer, what it said last stays, with the time.',
)
WORDS = {'?': 'help', 'w': 'wrong'}
BACK = ('escape', 'left', 'backspace', 'h')
TICK_S = 1.0
LEAST_BODY = 5  # lines that stay for what can be opened


class FleetScreen:
    """What is shown, and what happens next."""

    def __init__(
        self, connections: Connections, audience: Audience, interval_s: float, console: Console
    ) -> None:
        self._connections = connections
        self._audience = audience
        self._interval_s = interval_s
        self._console = console
        self._look = FleetLook({})
        self._pages = [ScreenPage()]
        self._question: ScreenQuestion | None = None
        self._message = ''
        self._seen = 1  # lines between head and foot
        self._events: asyncio.Queue[str] = asyncio.Queue()  # keys, and '' when something is new
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, first: FleetLook) -> None:
        """Show it until somebody leaves."""
        self._look = self._linked(first)
        looking = asyncio.create_task(self._keep_looking())
        with (
            Live(console=self._console, screen=True, auto_refresh=False) as live,
            keyboard(self._events.put_nowait, lambda: self._events.put_nowait('')),
        ):
            try:
                while True:
                    live.update(self._drawn(), refresh=True)
                    try:
                        key = await asyncio.wait_for(self._events.get(), TICK_S)
                    except TimeoutError:
                        continue  # the ages of what is shown
                    if key and not self._press(key):
                        return
            finally:
                for task in (looking, *self._tasks):
                    task.cancel()
                await asyncio.gather(looking, *self._tasks, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            look = await look_at_fleet(self._connections, self._audience)
            self._look = with_older(self._linked(look), self._look)
            page = self._pages[-1]
            if page.target and page.word == 'about':
                await self._load(page)
            self._events.put_nowait('')

    def _linked(self, look: FleetLook) -> FleetLook:
        url = self._connections.settings.web_public_url
        return replace(look, problems=[with_page(problem, url) for problem in look.problems])

    # What is seen.

    @property
    def _width(self) -> int:
        return max(self._console.width, 20)

    def _head(self) -> list[ScreenLine]:
        page = self._pages[-1]
        if page.word == 'overview':
            most = 4 if self._console.height >= 24 else 2
            return head_lines(self._look, self._width, most)
        about = '' if page.target is None else f'{page.target.kind} {cell(page.target.name)}'
        titles = {
            'about': about, 'explain': f'why: {about}', 'help': 'Keys', 'wrong': 'What is wrong',
        }  # fmt: skip
        head = [plain_line(titles[page.word], 'bold')]
        head += [
            plain_line(f'{server} has not answered since {at:%H:%M:%S} UTC', 'bold red')
            for server, at in self._look.since.items()
        ]
        return head

    def _lines(self) -> list[ScreenLine]:
        page = self._pages[-1]
        if page.word == 'overview':
            return list(body_lines(self._look, self._width))
        if page.word == 'wrong':
            return list(problem_lines(self._look, self._width))
        if page.word == 'help':
            return [plain_line(line) for line in HELP]
        if page.target is not None and page.word == 'about' and page.target.kind != 'mail':
            return list(target_lines(page.target, self._look, page.rows, self._width))
        return page.lines if page.lines is not None else [plain_line('reading ...', 'dim')]

    def _foot(self) -> list[ScreenLine]:
        if self._question is not None:
            act = self._question.act
            lines = wrapped_lines(act.question, self._width, 'bold yellow')
            if act.wants_reason:
                typed = f'Reason (enter does it, escape does not): {cell(self._question.typed)}_'
                return [*lines, *wrapped_lines(typed, self._width, 'bold')]
            return [*lines, plain_line('y: yes   n: no', 'bold')]
        told = wrapped_lines(self._message, self._width, 'bold') if self._message else []
        keys = KEYS if len(self._pages) == 1 else KEYS_BELOW
        return [*told, plain_line(keys, 'dim')]

    def _drawn(self) -> Text:
        height = self._console.height
        foot, lines = self._foot()[-height:], self._lines()
        head = self._head()[: max(height - len(foot) - LEAST_BODY, 1)]
        room, page = max(height - len(head) - len(foot) - 1, 1), self._pages[-1]
        self._seen = room
        page.settle(lines, room)
        chosen = page.chosen(lines)
        seen = []
        for number, line in enumerate(lines[page.top : page.top + room], start=page.top):
            text = line.text.copy()
            if number == chosen:
                text.truncate(self._width, pad=True)
                text.stylize('reverse')
            seen.append(text)
        seen += [Text()] * (room - len(seen))
        left = len(lines) - page.top - room
        more = Text(f'{left} more lines below' if left > 0 else '', 'dim')
        shown = [*(line.text for line in head), *seen, more, *(line.text for line in foot)]
        whole = Text(no_wrap=True, overflow='crop', end='')
        for number, text in enumerate(shown[:height]):
            cut = text.copy()
            cut.truncate(self._width, overflow='ellipsis')
            whole.append('\n' if number else '').append_text(cut)
        return whole

    # What keys do.

    def _press(self, key: str) -> bool:
        """Take a key. Returns whether to go on."""
        if self._question is not None:
            self._answer(self._question, key)
            return True
        self._message = ''
        page, lines = self._pages[-1], self._lines()
        if key in ('q', 'interrupt'):
            return False
        if key in MOVES:
            page.move(lines, MOVES[key], self._seen)
        elif key == 'tab':
            self._next_table(page, lines)
        elif key in BACK:
            del self._pages[max(len(self._pages) - 1, 1) :]
        elif key in WORDS and page.word != WORDS[key]:
            self._pages.append(ScreenPage(WORDS[key]))
        elif key in ('enter', 'right', 'l', 'p', 'r', 'e'):
            page.chosen(lines)
            self._use(page.cursor or page.target, key, opened=page.target)
        return True

    def _next_table(self, page: ScreenPage, lines: Sequence[ScreenLine]) -> None:
        kind = page.cursor and page.cursor.kind
        at = page.chosen(lines) or 0
        after = [line.target for line in (*lines[at:], *lines[:at]) if line.target]
        page.cursor = next((t for t in after if t.kind != kind), page.cursor)

    def _use(self, target: ScreenTarget | None, key: str, *, opened: ScreenTarget | None) -> None:
        """Open a target, or ask about what a key does to it."""
        if target is None:
            return
        if key == 'p':
            self._ask(
                pause_or_resume(self._connections, target, self._look), f'a {target.kind}', 'paused'
            )
        elif key == 'r':
            self._ask(send_again(self._connections, target), f'a {target.kind}', 'sent again')
        elif key == 'e':
            if target.kind == 'mail':
                self._open(ScreenPage('explain', target))
            else:
                self._message = 'Choose an e-mail: only those are explained.'
        elif target != opened:
            self._open(ScreenPage('about', target))

    def _ask(self, act: ScreenAct | None, what: str, done: str) -> None:
        if act is None:
            self._message = f'Here is {what}, which cannot be {done}.'
        else:
            self._question = ScreenQuestion(act)

    def _open(self, page: ScreenPage) -> None:
        self._pages.append(page)
        self._start(self._load(page))

    async def _load(self, page: ScreenPage) -> None:
        target = page.target
        if target is None:
            return
        try:
            if target.kind == 'mail':
                load = load_mail if page.word == 'about' else load_explanation
                page.lines = await load(self._connections, int(target.name), self._width)
            else:
                page.rows = await load_failed(self._connections, target)
        except ProblemError as error:
            if page.lines is None:
                page.lines = wrapped_lines(error.problem.line, self._width, 'bold red')

    def _answer(self, question: ScreenQuestion, key: str) -> None:
        decided = question.press(key)
        if decided is None:
            return
        self._question = None
        if decided:
            self._message = 'doing it ...'
            self._start(self._do(question))
        else:
            self._message = 'Nothing was done.'

    async def _do(self, question: ScreenQuestion) -> None:
        try:
            told = await question.act.do(question.typed.strip())
        except ProblemError as error:
            told = f'Not done: {error.problem.line}'
        self._message = as_typed(told)
        look = await look_at_fleet(self._connections, self._audience)
        self._look = with_older(self._linked(look), self._look)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            await work
            self._events.put_nowait('')

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
