"""Telling a running inbox what to do: JSON lines over a unix socket.

One JSON object a line in, one a line out; the answer has `ok`, and `error` when it is false.
Commands:

    {"set": {"relay": "primary" | "backup" | null, "verb": ..., "do": ..., "times": n | null, ...}}
    {"clear": true}
    {"listen": {"relay": "primary", "on": false}}    open connections of that relay are cut as well
    {"stats": true}

Verbs: connect, ehlo, starttls, auth, mail, rcpt, data (before 354), dot (after the message), rset,
quit. Deeds: refuse (with code and text), drop, stall (seconds, null: until the client goes),
store-then-drop (dot only).
"""

import hashlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Literal

RelayName = Literal['primary', 'backup']
TIMEOUT_S = 10.0
LONGEST_PATH_BYTES = 100  # the kernel's limit is 104 or 108


class ControlFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """The inbox refused a command; the message is its explanation."""


def control_path(directory: Path) -> Path:
    """Where the inbox of this directory has its control socket.

    `control.sock` in it, or, where that path is too long for a unix socket, a name of its own among
    the temporary files.
    """
    path = directory.resolve() / 'control.sock'
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f'inbox-{os.geteuid()}-{digest}.sock'


class InboxControl:
    """A client for the control socket; every call makes a connection of its own.

    All methods raise `ControlFailed` when the inbox refuses the command, OSError when it does not
    answer.
    """

    def __init__(self, directory: Path) -> None:
        """Address the inbox that keeps its mail in this directory."""
        self._path = control_path(directory)

    def misbehave(
        self,
        verb: str,
        do: str,
        *,
        relay: RelayName | None = None,
        times: int | None = None,
        **details: Any,
    ) -> None:
        """Set a rule, in place of one for the same relay and verb.

        Args:
            relay: None for both.
            times: How many times; None until `behave`.
            details: `code`, `text` and `beyond` for refuse, `seconds` for stall; see
                `dev.inbox_faults.Fault`.
        """
        self.command({'set': {'relay': relay, 'verb': verb, 'do': do, 'times': times, **details}})

    def behave(self) -> None:
        """Remove all rules."""
        self.command({'clear': True})

    def listen(self, relay: RelayName, *, on: bool) -> None:
        """Close a relay's port and cut its connections, or listen again on the same port."""
        self.command({'listen': {'relay': relay, 'on': on}})

    def stats(self) -> dict[str, dict[str, int]]:
        """Count for each relay.

        Connections, transactions, accepted since its start, and open now.
        """
        relays: dict[str, dict[str, int]] = self.command({'stats': True})['relays']
        return relays

    def command(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send one command and return the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(self._path))
            connection.sendall(json.dumps(command).encode() + b'\n')
            with connection.makefile('rb') as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        if not answer['ok']:
            raise ControlFailed(answer['error'])
        return answer
