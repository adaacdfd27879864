"""The .env file the stack writes, and its refusal to overwrite one that a person wrote."""

import os
import re
import tempfile
from pathlib import Path

MARKER = '# Written by dev.stack at every start; changes are lost.'
PLAIN = re.compile(r'[A-Za-z0-9_@%+=:,./-]*')


class NotOurs(RuntimeError):  # noqa: N818 - reads as what happened
    """The file exists and was not written by the stack; the message says what to do."""


def check_may_write(path: Path) -> None:
    """Raise `NotOurs` when the file has another author."""
    try:
        with path.open(encoding='utf-8', errors='replace') as file:
            first_line = file.readline().rstrip('\n')
    except FileNotFoundError:
        return
    if first_line != MARKER:
        raise NotOurs(
            f'{path} exists and was not written by dev.stack. Move it away, or give '
            'another --env-file.'
        )


def write(path: Path, variables: dict[str, str]) -> None:
    """Write the file at once or not at all, readable by its owner only.

    Raises:
        NotOurs: see `check_may_write`.
        OSError: the directory does not exist or is not writable.
    """
    check_may_write(path)
    lines = [MARKER, *(f'{name}={quote(value)}' for name, value in variables.items())]
    handle, unfinished = tempfile.mkstemp(
        prefix=f'{path.name}.', dir=path.parent
    )  # mkstemp: mode 0600
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            file.write('\n'.join(lines) + '\n')
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def quote(value: str) -> str:
    """Quote a value so that dotenv, systemd and a shell read the same."""
    if PLAIN.fullmatch(value):
        return value
    escaped = re.sub(r'([\\"$`])', r'\\\1', value)
    return f'"{escaped}"'
