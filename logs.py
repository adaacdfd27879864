"""The log pipeline: structlog for our lines and for those of arq and other libraries, on standard error.

Bound by context where they are known: job_id, email_id, attempt, worker. Recipients are personal data: above DEBUG only
their domain is shown, whoever wrote the line.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

ADDRESS = re.compile(r"""("[^"]*"|[^\s@"'<>(),:;\[\]\\{}=]+)@(?=[\w\[])""")

# Not addresses of people: who we are, and what we call an e-mail.
NOT_PERSONAL = frozenset({'worker', 'lost_worker', 'message_id'})


def hide_recipients(_: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Replace the local part of every address in a line above DEBUG, wherever it stands."""
    if method != 'debug':
        for key, value in event.items():
            if key not in NOT_PERSONAL:
                event[key] = _hidden(value)
    return event


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


def configure_logs(level: str, format_: Literal['auto', 'json', 'console']) -> None:
    """Send everything through one pipeline; may be called again, the last call wins.

    Args:
        level: The least severe level shown, by its name.
        format_: `auto` is `console` on a terminal and `json` otherwise.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt='iso', utc=True),
        structlog.processors.format_exc_info,
        hide_recipients,
    ]
    console = format_ == 'console' or (format_ == 'auto' and sys.stderr.isatty())
    renderer: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=28)]
        if console
        else [structlog.processors.JSONRenderer(sort_keys=False)]
    )
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library: the same processors, the same renderer, the same stream.
    handler = logging.StreamHandler(sys.stderr)
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
        # arq's own command installs a handler; two lines a job at INFO would double every e-mail's line.
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(threshold, logging.WARNING) if name == 'arq.worker' else threshold)
