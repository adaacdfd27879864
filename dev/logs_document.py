"""Write docs/logs.md from log_events.py: `python -m dev.logs_document`."""

from pathlib import Path

from log_events import LOG_EVENTS, LogEvent

DOCUMENT = Path(__file__).parent.parent / 'docs' / 'logs.md'
HEAD = """# Logs

Written by `python -m dev.logs_document` from `log_events.py`. The worker and the web page write a
line of JSON for each event to standard error (`LOG_FORMAT`), from `LOG_LEVEL` on.

Every line has `timestamp` (UTC), `level` and `event`, which is one of these names. A line about an
e-mail has `email_id`, one inside an attempt `attempt`, one inside a job `job_id` and `worker`.
Above DEBUG the local part of every address is `***`. A sentence that explains is in `detail` or
`reason`, what to do is in `remedy`, a traceback is in `exception`.

```sh
journalctl -u email-worker -o cat | grep '"event":"email.rejected"'
```

Lines without such a name come from libraries (arq, asyncio) and keep their words.

| event | level | when | fields | what to do |
|---|---|---|---|---|
"""


def logs_document() -> str:
    """Return docs/logs.md as it should be."""
    return HEAD + ''.join(_row(name, event) for name, event in LOG_EVENTS.items())


def _row(name: str, event: LogEvent) -> str:
    fields = ', '.join(f'`{field}`' for field in event.fields.split())
    cells = (f'`{name}`', event.level, event.when, fields, event.remedy)
    return '|' + ''.join(f' {cell} |' if cell else ' |' for cell in cells) + '\n'


def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(logs_document())


if __name__ == '__main__':
    main()
