"""The log pipeline: structlog for our lines and for those of libraries, on standard error.

Bound by context where they are known: job_id, email_id, attempt, worker. Recipients are personal
data: above DEBUG only their domain is shown, whoever wrote the line.
"""

import asyncio
import atexit
import json
import logging
import re
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple

import orjson

from process.log_writer import FLUSH_S, LineWriter, writer_to

# structlog.dev loads rich, for tracebacks on a terminal: 4 MB in every worker. A program that draws
# with rich imports it itself.
if 'rich' not in sys.modules:
    sys.modules['rich'] = None  # type: ignore[assignment]  # Python's way to say that there is none
import structlog

if sys.modules['rich'] is None:
    del sys.modules['rich']

LOCAL_CHARS = r"""[^\s@"'<>(),:;\[\]\\{}=]"""
# It begins where such characters begin: to look again from each of them would take the square of a
# long word's length.
ADDRESS = re.compile(rf'("[^"]*"|(?<!{LOCAL_CHARS}){LOCAL_CHARS}+)@(?=[\w\[])')


def hide_addresses(text: str | None) -> str | None:
    """Return a relay's reply or an error without the local parts it quotes, and no endless one."""
    if not text:
        return text
    if len(text) > LONGEST_CHARS:
        text = _cut(text)
    return ADDRESS.sub('***@', text) if '@' in text else text


# Of a value: who writes a row may write megabytes into it, and a line is kept until it is read.
LONGEST_CHARS = 20_000
JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z

LEVELS = {'info': logging.INFO, 'warning': logging.WARNING}

# Not addresses of people: who we are, and what we call an e-mail.
NOT_PERSONAL = frozenset({'worker', 'lost_worker', 'message_id'})


def visible(text: str) -> str:
    r"""Return text that steers no terminal: what does not print is shown by its number, \x1b.

    Every kind of space becomes a space. Control characters (C0, DEL, C1), overrides of the
    direction of writing, half characters and the like come out of replies of relays, records in
    Redis, subjects and names: their writer must not move the reader's cursor.
    """
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() else ' ' if _is_space(c) else _number(c) for c in text)


def visible_lines(text: str) -> str:
    """Return the same for text of several lines, which stay lines."""
    return text if text.isprintable() else '\n'.join(map(visible, text.split('\n')))


def _is_space(character: str) -> bool:
    return character in '\t\n\v\f\r' or (character > '\x9f' and character.isspace())


def _number(character: str) -> str:
    return (
        character.encode('ascii', 'backslashreplace').decode()
        if character > '\x7f'
        else f'\\x{ord(character):02x}'
    )


def hide_recipients(_: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Replace the local part of every address in a line above DEBUG, wherever it stands.

    A text that is longer than anybody reads is cut first.
    """
    if method != 'debug':
        for key, value in event.items():
            if value is None or (kind := type(value)) is int:
                continue
            if kind is not str:
                if key not in NOT_PERSONAL:
                    event[key] = _hidden(value)
                continue
            if key not in NOT_PERSONAL:
                if '@' in value or len(value) > LONGEST_CHARS:
                    event[key] = hide_addresses(value)
            elif len(value) > LONGEST_CHARS:
                event[key] = _cut(value)
    return event


def _cut(text: str) -> str:
    return f'{text[:LONGEST_CHARS]}... ({len(text)} characters)'


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return ADDRESS.sub('***@', value) if '@' in value else value
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {_hidden(key): _hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_hidden(item) for item in value]
    return _hidden(str(value))


def add_timestamp(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Add the time in UTC, which orjson writes in ISO 8601."""
    event['timestamp'] = datetime.now(UTC)
    return event


def render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """Return the line as JSON in ASCII: some readers take U+2028 and the like for line ends."""
    try:
        line = orjson.dumps(event, default=repr, option=JSON_OPTIONS)
        if line.isascii():
            return line.decode()
    except TypeError:  # it refuses half characters and very long numbers
        pass
    event['timestamp'] = _iso(event['timestamp'])
    return json.dumps(event, default=repr)


def render_time(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Write the time out for the console, and let no value steer it."""
    event['timestamp'] = _iso(event['timestamp'])
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = visible_lines(value)
    return event


def _iso(time: datetime) -> str:
    return time.isoformat().replace('+00:00', 'Z')


class _Lines:
    """Hands the lines of one iteration of the event loop to the writer together.

    The lines of a batch then take one system call. What is logged without a loop is out when the
    call returns, unless nobody reads it.
    """

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._lines: deque[str] = deque()  # other threads log as well
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that will hand them over
        atexit.register(self._at_exit)

    def write(self, line: str) -> None:
        self._lines.append(line)
        if (loop := self._loop) is not None and loop.is_running():
            return
        try:
            self._loop = loop = asyncio.get_running_loop()
        except RuntimeError:
            self._hand_over()
            self._writer.flush(FLUSH_S)
        else:
            loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._loop = None
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if lines:
            self._writer.put(''.join(lines))

    def _at_exit(self) -> None:
        self._hand_over()
        self._writer.flush(FLUSH_S)

    def close(self) -> None:
        """Hand over what is left; another takes this one's place."""
        self._hand_over()
        atexit.unregister(self._at_exit)

    def flush(self) -> None:
        """Do nothing: structlog and logging flush after each line."""


class _Pipeline(NamedTuple):
    threshold: int
    renderer: list[structlog.types.Processor]  # the last of all processors
    lines: _Lines


_pipeline: _Pipeline | None = None


def write_line(level: Literal['info', 'warning'], event: str, fields: dict[str, Any]) -> None:
    """Log as `log.info(event, **fields)` does, in a third of the time.

    For the line that each e-mail has. It skips the layers in front of the processors, and does not
    look through the fields for addresses.

    Args:
        fields: Without addresses of people, see hide_addresses; it becomes the line.
    """
    # Another pipeline is configured, such as a test's.
    last = structlog.get_config()['processors'][-1]
    if _pipeline is None or last is not _pipeline.renderer[-1]:
        getattr(structlog.get_logger(), level)(event, **fields)
        return
    threshold, renderer, lines = _pipeline
    if LEVELS[level] >= threshold:
        fields['event'] = event
        line: Any = structlog.contextvars.merge_contextvars(None, level, fields)
        line['level'] = level
        add_timestamp(None, level, line)
        for process in renderer:
            line = process(None, level, line)
        lines.write(f'{line}\n')


def _dropped_line(processors: list[structlog.types.Processor], lines: int) -> str:
    """Return the line that says how many are missing in its place."""
    line: Any = {'event': 'log.lines_dropped', 'lines': lines, 'reason': 'nobody read them in time'}
    for process in processors:
        line = process(None, 'warning', line)
    return f'{line}\n'


def configure_logs(level: str, format_: Literal['auto', 'json', 'console']) -> None:
    """Send everything through one pipeline; may be called again, the last call wins.

    Args:
        level: The least severe level shown, by its name.
        format_: `auto` is `console` on a terminal and `json` otherwise.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        hide_recipients,
        add_timestamp,
    ]
    console = format_ == 'console' or (format_ == 'auto' and sys.stderr.isatty())
    renderer: list[structlog.types.Processor] = (
        [render_time, structlog.dev.ConsoleRenderer(pad_event_to=28)] if console else [render_json]
    )
    threshold = logging.getLevelNamesMapping()[level]
    global _pipeline  # noqa: PLW0603 - structlog's configuration is global as well
    if _pipeline is not None:
        _pipeline.lines.close()
    processors = [*shared, *renderer]
    writer = writer_to(sys.stderr, partial(_dropped_line, processors))
    _pipeline = _Pipeline(threshold, renderer, _Lines(writer))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(_pipeline.lines),  # type: ignore[arg-type]  # it writes, no more
        cache_logger_on_first_use=False,
    )
    _configure_libraries(_pipeline, shared, renderer)


def _configure_libraries(
    pipeline: _Pipeline,
    shared: list[structlog.types.Processor],
    renderer: list[structlog.types.Processor],
) -> None:
    """Have libraries, which log through the standard library, use the same pipeline."""
    threshold = pipeline.threshold
    handler: logging.Handler = logging.StreamHandler(pipeline.lines)  # it writes, no more
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.INFO))
    for name in ('arq', 'arq.worker'):
        # arq's own command installs a handler; two lines a job at INFO would double every e-mail's
        # line.
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(threshold, logging.WARNING) if name == 'arq.worker' else threshold)
