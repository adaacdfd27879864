"""A terminal of a size, by Debian's tmux: commands typed, keys pressed, and what is seen."""

import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

PROMPT = 'ready> '


class Terminal:
    """A shell in a tmux server of its own; leave it with `with`.

    Attributes:
        width, height: In characters.
    """

    def __init__(self, width: int, height: int, directory: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            FileNotFoundError: there is no tmux.
        """
        self.width, self.height = width, height
        self._server = f'mail-{uuid.uuid4().hex[:12]}'
        shell = {'PS1': PROMPT, 'TERM': 'tmux-256color', 'LANG': 'C.UTF-8', 'HISTFILE': ''}
        pairs = [f'{name}={value}' for name, value in (dict(env) | shell).items()]
        command = ['env', '-i', *pairs, 'bash', '--norc', '--noprofile']
        program = shutil.which('tmux')
        if program is None:
            raise FileNotFoundError('tmux is missing: apt-get install tmux')
        self._program = program
        self._tmux(
            '-f', '/dev/null', 'new-session', '-d', '-x', str(width), '-y', str(height),
            '-c', str(directory), *command,
        )  # fmt: skip

    def _tmux(self, *words: str) -> str:
        command = [self._program, '-u', '-L', self._server, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux('kill-server')

    def type(self, text: str) -> None:
        """Type a line, and enter."""
        self._tmux('send-keys', '-l', text)
        self.press('Enter')

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names of them."""
        self._tmux('send-keys', *keys)

    def resize(self, width: int, height: int) -> None:
        """Give it another size."""
        self.width, self.height = width, height
        self._tmux('resize-window', '-x', str(width), '-y', str(height))

    def seen(self, *, history: int = 0, with_styles: bool = False) -> str:
        """Return what is on the screen, and so many lines above it."""
        options = ['-e'] if with_styles else []
        return self._tmux('capture-pane', '-p', *options, '-S', str(-history))

    def until(self, text: str, deadline_s: float = 60.0, *, history: int = 0) -> str:
        """Wait until a text is seen. Returns the screen.

        Raises:
            TimeoutError: it is not; with what is seen instead.
        """
        ends_at = time.monotonic() + deadline_s
        while text not in (screen := self.seen(history=history)):
            if time.monotonic() > ends_at:
                raise TimeoutError(f'{text!r} is not seen:\n{screen}')
            time.sleep(0.05)
        return screen

    def settled(self, text: str) -> str:
        """Wait until a text is seen, and the screen no longer changes. Returns the screen.

        Raises:
            TimeoutError: the text is not seen.
        """
        screen = self.until(text)
        while True:
            time.sleep(0.3)
            if screen == (now := self.seen()):
                return screen
            screen = now

    def run(self, command: str) -> str:
        """Run a command to its end. Returns what it printed, of up to 500 lines."""
        mark = uuid.uuid4().hex[:8]
        self.type(f'clear; tmux_mark={mark}; {command}; echo "end-of-$tmux_mark"')
        screen = self.until(f'end-of-{mark}\n', history=500)
        printed = screen.partition(f'end-of-{mark}\n')[0]
        return printed.rpartition('"end-of-$tmux_mark"\n')[2]
