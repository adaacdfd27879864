"""The keys that somebody presses, one by one, and when the terminal gets another size."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

# What terminals send for keys that are no character; each has two ways of saying it.
NAMED = {
    '\x1b[A': 'up', '\x1bOA': 'up', '\x1b[B': 'down', '\x1bOB': 'down',
    '\x1b[C': 'right', '\x1bOC': 'right', '\x1b[D': 'left', '\x1bOD': 'left',
    '\x1b[5~': 'page-up', '\x1b[6~': 'page-down', '\x1b[H': 'home', '\x1b[F': 'end',
    '\x1b[1~': 'home', '\x1b[4~': 'end', '\x1bOH': 'home', '\x1bOF': 'end',
    '\x1b': 'escape', '\r': 'enter', '\n': 'enter', '\x7f': 'backspace', '\x08': 'backspace',
    '\t': 'tab', '\x03': 'interrupt', '\x04': 'q',
}  # fmt: skip
SEQUENCE = re.compile(r'\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~])|.', re.DOTALL)
AT_ONCE_BYTES = 4096
MOST_TYPED_BYTES = 64  # at once, over a slow line: more is a paste, and no key of ours


def keys_in(text: str) -> Iterator[str]:
    """Yield the keys that a terminal sent: a character, or a name of NAMED's."""
    for found in SEQUENCE.finditer(text):
        sent = found[0]
        if sent in NAMED:
            yield NAMED[sent]
        elif len(sent) == 1 and sent.isprintable():
            yield sent


@contextlib.contextmanager
def keyboard(pressed: Callable[[str], None], resized: Callable[[], None]) -> Iterator[bool]:
    """Hear keys as they are pressed, until the end. Yields whether there is a keyboard.

    Args:
        pressed: Gets each key, see keys_in; Ctrl-C stays a signal.
        resized: Called when the terminal gets another size.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, resized)
    if not (sys.stdin and sys.stdin.isatty()):
        try:
            yield False
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        sent = os.read(descriptor, AT_ONCE_BYTES)
        if not sent:  # the terminal is gone
            loop.remove_reader(descriptor)
            pressed('q')
        if len(sent) <= MOST_TYPED_BYTES:
            for key in keys_in(sent.decode(errors='replace')):
                pressed(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
