"""A renderer: a process that fills templates for a worker and holds nothing worth harming.

`python -m mail.template.renderer MAX_CHARS [pushed]` reads requests from standard input and writes
answers to standard output until its input ends, as it does when the worker ends in whatever way. A
frame is its length (4 bytes, big endian) and JSON:

    request  [number, subject, body_text, body_html, own, template_data], see jinja.fill_parts
             or [number, pushed, locale, check, own, template_data], see pushed.fill_pushed
    answer   [0, null] once it is ready, then [number, [subject, body_text, body_html]]
             or [number, kind, reason]

kind is 'wrong' (of the e-mail) or 'memory' (too little was left).

The kernel keeps the limits, since nothing inside Python can interrupt one long step in C: SIGPROF
ends the process when one request has used CPU_S of processor time, and RLIMIT_AS makes an
allocation fail that is too large. At rest it has 21 MB, 11 of them shared with nobody (jinja2 3.1,
Python 3.11, 2026-11-30). The number it is at is its name for the system ("mail 1234" in `top`),
where the worker reads it when answers not yet written are lost with the process.
"""

import contextlib
import gc
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from mail.template.finish import load
from mail.template.jinja import OutOfMemoryError, TemplateError, fill_parts, printable
from mail.template.pushed import fill_pushed

CPU_S = 2.0  # of one e-mail; ordinary ones take a tenth of a millisecond
MEMORY_BYTES = 96 * 2**20  # of one e-mail
# What earlier ones may leave behind (compiled templates); above it, another process takes over.
KEPT_BYTES = 32 * 2**20
LENGTH = struct.Struct('>I')
READ_BYTES = 2**20
ANSWER_EVERY_S = 0.005
NICENESS = 5  # mail that is being sent goes first


def main() -> None:
    """Answer until the input ends, or until so much memory is kept that another should go on."""
    # They are meant for the worker, which then ends our input.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a service may forbid it
        os.nice(NICENESS)
    max_chars = int(sys.argv[1])
    if 'pushed' in sys.argv[2:]:  # what pushed templates need is loaded before anything is timed
        load()
    gc.freeze()
    at_rest_bytes = _mapped_bytes()
    limit_bytes = at_rest_bytes + KEPT_BYTES + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold mail
    _write(_frame([0, None]))
    name = _open_name()
    received = bytearray()
    while chunk := os.read(0, READ_BYTES):
        received += chunk
        _answer(received, max_chars, name)
        if _mapped_bytes() > at_rest_bytes + KEPT_BYTES:
            return


def _answer(received: bytearray, max_chars: int, name: int) -> None:
    """Answer whole requests, several in one write, but none later than ANSWER_EVERY_S."""
    answers: list[bytes] = []
    began = time.monotonic()
    start = 0
    while len(received) >= start + LENGTH.size:
        (length,) = LENGTH.unpack_from(received, start)
        end = start + LENGTH.size + length
        if len(received) < end:
            break
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        answers.append(_fill(bytes(received[start + LENGTH.size : end]), max_chars, name))
        signal.setitimer(signal.ITIMER_PROF, 0)
        start = end
        if time.monotonic() - began > ANSWER_EVERY_S:
            _write(b''.join(answers))
            answers.clear()
            began = time.monotonic()
    del received[:start]
    _write(b''.join(answers))


def _fill(request: bytes, max_chars: int, name: int) -> bytes:
    number = 0
    try:
        number, *asked, own, data = orjson.loads(request)
        os.write(name, b'mail %d' % number)
        if isinstance(asked[2], bool):
            pushed, locale, check = asked
            filled = fill_pushed(pushed, locale, data, max_chars, own, check=check)
        else:
            filled = fill_parts(asked, data, max_chars, own)
        return _frame([number, filled])
    except OutOfMemoryError as error:
        return _frame([number, 'memory', str(error)])
    except MemoryError:
        return _frame([number, 'memory', 'template: it needs more memory than a template may take'])
    except TemplateError as error:
        return _frame([number, 'wrong', str(error)])
    except Exception as error:  # noqa: BLE001 - nobody foresaw it, and another renderer would end alike
        return _frame(
            [number, 'wrong', f'template: {type(error).__name__}: {printable(str(error))}']
        )


def _open_name() -> int:
    try:
        return os.open('/proc/self/comm', os.O_WRONLY)
    except OSError:  # another system than Linux
        return os.open(os.devnull, os.O_WRONLY)


def _frame(value: list[Any]) -> bytes:
    written = orjson.dumps(value)
    return LENGTH.pack(len(written)) + written


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def _mapped_bytes() -> int:
    try:
        return int(Path('/proc/self/statm').read_bytes().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):  # another system than Linux
        return 0


if __name__ == '__main__':
    main()
