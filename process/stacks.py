"""Where every task of this process waits, as text.

It has names of functions and numbers of lines, never values of variables: those are personal data.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
MAX_TASKS = 200
MAX_DEPTH = 30


def dump_stacks(tasks: Iterable[asyncio.Task[Any]] | None = None) -> str:
    """Return one block per task: its name, then who waits for whom, the innermost last."""
    found = sorted(
        asyncio.all_tasks() if tasks is None else tasks, key=lambda task: task.get_name()
    )
    blocks = [
        '\n'.join([f'{task.get_name()} {_name(task)}', *(f'  {line}' for line in _waits(task))])
        for task in found[:MAX_TASKS]
    ]
    if len(found) > MAX_TASKS:
        blocks.append(f'and {len(found) - MAX_TASKS} more tasks')
    return '\n\n'.join(blocks)


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), '__qualname__', ''))


def _waits(task: asyncio.Task[Any]) -> list[str]:
    """Follow the chain of awaits: Task.get_stack knows only its outermost part."""
    lines: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(lines) < MAX_DEPTH:
        frame = getattr(waiting, 'cr_frame', None) or getattr(waiting, 'gi_frame', None)
        if not isinstance(frame, FrameType):
            lines.append(f'waits for {type(waiting).__name__}')
            break
        lines.append(_line(frame.f_code, frame.f_lineno))
        waiting = getattr(waiting, 'cr_await', None) or getattr(waiting, 'gi_yieldfrom', None)
    return lines


def _line(code: CodeType, number: int) -> str:
    path = Path(code.co_filename)
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])
    if 'site-packages' in path.parts:
        where = Path(*path.parts[path.parts.index('site-packages') + 1 :])
    return f'{where}:{number} {code.co_qualname}'
