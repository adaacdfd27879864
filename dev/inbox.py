"""The SMTP inbox: takes mail as two relays, keeps it, and misbehaves on request.

    python -m dev.inbox --dir DIR [--primary-port N] [--backup-port N] [--user U --password P]
    [--no-tls] [--durable]

`primary` and `backup` listen on a port each. Accepted mail is DIR/NNNNNN.eml and a line in
DIR/index.jsonl (`dev.inbox_store`). Once both listen, DIR/inbox.json says where, and `listening` is
printed. Clients check the certificate with DIR/certificate.pem. `dev.inbox_control` changes the
behaviour of a running inbox; a recipient with a tag (`anna+4xx-twice@example.com`) changes it for
one mail:

    tag             at      what happens
    4xx-twice       RCPT    451 4.7.1, twice for that recipient at each relay, then accepted
    5xx-rcpt        RCPT    550 5.1.1
    5xx-data        dot     554 5.7.1
    4xx-data        dot     452 4.3.1
    drop-rcpt       RCPT    connection closed without reply
    drop-data       DATA    connection closed before 354
    drop-dot        dot     message kept, connection closed without reply; once per recipient
    drop-dot-lost   dot     the same, but the message is not kept
    stall-rcpt      RCPT    no answer until the client goes
    stall-dot       dot     no answer until the client goes; the message is not kept
    421-rcpt        RCPT    421 4.3.2 and closed
"""

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.inbox_certificate import server_tls_context
from dev.inbox_control import control_path
from dev.inbox_faults import BadRule, Rules, TagCounter, parse_rule
from dev.inbox_session import Inbox, InboxSession, Relay
from dev.inbox_store import CERTIFICATE_NAME, READY_NAME, MessageStore

BACKLOG = 512


class InboxProcess:
    """Both relays and the control socket."""

    def __init__(self, directory: Path, relays: list[Relay], inbox: Inbox) -> None:
        self._directory = directory
        self._relays = {relay.name: relay for relay in relays}
        self._inbox = inbox
        self._servers: dict[str, asyncio.Server] = {}

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: a port is taken.
        """
        for relay in self._relays.values():
            await self._listen(relay)
        socket_path = control_path(self._directory)
        socket_path.unlink(missing_ok=True)
        control = await asyncio.start_unix_server(self._serve_control, socket_path)
        socket_path.chmod(0o600)
        self._announce()
        stopped = asyncio.Event()
        for stop_signal in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(stop_signal, stopped.set)
        await stopped.wait()
        control.close()
        for relay in self._relays.values():
            self._close(relay)
        socket_path.unlink(missing_ok=True)

    async def _listen(self, relay: Relay) -> None:
        if relay.name in self._servers:
            return
        make_session = functools.partial(InboxSession, self._inbox, relay)
        server = await asyncio.get_running_loop().create_server(
            make_session, '127.0.0.1', relay.port, backlog=BACKLOG, reuse_address=True
        )
        relay.port = server.sockets[0].getsockname()[1]
        self._servers[relay.name] = server

    def _close(self, relay: Relay) -> None:
        server = self._servers.pop(relay.name, None)
        if server is not None:
            server.close()
        for session in list(relay.sessions):
            session.cut()

    def _announce(self) -> None:
        """Write where we listen, complete or not at all, and say so."""
        where: dict[str, Any] = {
            'pid': os.getpid(),
            'control': str(control_path(self._directory)),
            'certificate': str(self._directory / CERTIFICATE_NAME)
            if self._inbox.tls_context
            else None,
        }
        where |= {
            relay.name: {'host': '127.0.0.1', 'port': relay.port} for relay in self._relays.values()
        }
        unfinished = self._directory / f'{READY_NAME}.new'
        unfinished.write_text(json.dumps(where))
        unfinished.rename(self._directory / READY_NAME)
        print(f'listening {json.dumps(where)}', flush=True)

    async def _serve_control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._obey(line)).encode() + b'\n')
                await writer.drain()
        writer.close()

    async def _obey(self, line: bytes) -> dict[str, Any]:
        commands: dict[str, Callable[[Any], Any]] = {
            'set': self._set,
            'clear': self._clear,
            'listen': self._switch,
            'stats': self._stats,
        }
        try:
            command = json.loads(line)
            if (
                not isinstance(command, dict)
                or len(command) != 1
                or not set(command) <= set(commands)
            ):
                return {
                    'ok': False,
                    'error': f'a command is an object with one of {sorted(commands)}',
                }
            (name, argument), *_ = command.items()
            return {'ok': True, **await commands[name](argument)}
        except (ValueError, TypeError, KeyError, OSError) as error:
            return {'ok': False, 'error': str(error) or type(error).__name__}

    async def _set(self, argument: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(argument, dict):
            raise BadRule('set takes an object')
        self._inbox.rules.set(parse_rule(argument))
        return {}

    async def _clear(self, _argument: object) -> dict[str, Any]:
        self._inbox.rules.clear()
        return {}

    async def _switch(self, argument: dict[str, Any]) -> dict[str, Any]:
        relay = self._relays.get(argument['relay'])
        if relay is None or not isinstance(argument['on'], bool):
            raise ValueError(
                f'listen takes a relay ({", ".join(self._relays)}) and on (true or false)'
            )
        if argument['on']:
            await self._listen(relay)
        else:
            self._close(relay)
        return {'port': relay.port}

    async def _stats(self, _argument: object) -> dict[str, Any]:
        names = ('connections', 'transactions', 'accepted')
        return {
            'relays': {
                relay.name: {name: relay.counts[name] for name in names}
                | {'open': len(relay.sessions)}
                for relay in self._relays.values()
            }
        }


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Choose uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - absent on some systems
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line.

    Passwords may also come from INBOX_PASSWORD and INBOX_BACKUP_PASSWORD.
    """
    parser = argparse.ArgumentParser(
        prog='python -m dev.inbox', description='An SMTP inbox that misbehaves on request.'
    )
    parser.add_argument(
        '--dir', type=Path, required=True, help='where mail, index, certificate and socket are kept'
    )
    parser.add_argument('--primary-port', type=int, default=0, help='0: any free one')
    parser.add_argument('--backup-port', type=int, default=0, help='0: any free one')
    parser.add_argument('--user', default='primary')
    parser.add_argument(
        '--password', default=os.environ.get('INBOX_PASSWORD', ''), help='empty: no AUTH needed'
    )
    parser.add_argument('--backup-user', default='backup')
    parser.add_argument('--backup-password', default=os.environ.get('INBOX_BACKUP_PASSWORD', ''))
    parser.add_argument(
        '--no-tls', action='store_true', help='do not offer STARTTLS, allow AUTH without it'
    )
    parser.add_argument('--durable', action='store_true', help='fsync before every 250')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the inbox; the exit status is 1 when a port is taken."""
    options = parse_arguments(argv)
    logging.getLogger('mail.log').setLevel(logging.ERROR)  # aiosmtpd's, which warns at every login
    directory = options.dir.resolve()
    store = MessageStore(directory, durable=options.durable)
    tls_context = None if options.no_tls else server_tls_context(directory)
    relays = [
        Relay('primary', options.user, options.password, options.primary_port),
        Relay('backup', options.backup_user, options.backup_password, options.backup_port),
    ]
    process = InboxProcess(directory, relays, Inbox(store, Rules(), TagCounter(), tls_context))
    try:
        with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
            runner.run(process.run())
    except OSError as error:
        print(f'inbox: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
