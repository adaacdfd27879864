"""The inbox as the sink of the chaos runs: `dev.inbox`, which also tells what happens in it, when it happens.

    python -m tests.chaos.sink --dir DIR --primary-port N --backup-port N ...

Every misdeed it begins is a line in DIR/events.jsonl before anything else is done about it. A stall at the dot whose
rule has the text `keep` keeps the message first: the relay has it then, and has not said so. A recipient with the tag
`poison` gets no answer to its RCPT, because the harness kills the worker that asks.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import Envelope, Session

from dev import inbox, inbox_session
from dev.inbox_certificate import server_tls_context
from dev.inbox_faults import Fault, Rules, Tag, TagCounter, Verb
from dev.inbox_server import PROJECT, InboxServer
from dev.inbox_session import Inbox, InboxSession, Relay, RelayHandler
from dev.inbox_store import MessageStore
from dev.processes import Command

EVENTS_NAME = 'events.jsonl'
KEEP = 'keep'
SLOW_RCPT_S = 60.0
TAGS = {'poison': Tag('rcpt', Fault('stall')), 'slow-rcpt': Tag('rcpt', Fault('stall', seconds=SLOW_RCPT_S), times=1)}


class EventLog:
    """events.jsonl; one write a line."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory / EVENTS_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **event: Any) -> None:
        os.write(self._fd, json.dumps({'at': time.time(), **event}).encode() + b'\n')


class WatchedRules(Rules):
    """Rules that tell when one is applied."""

    def __init__(self, events: EventLog) -> None:
        super().__init__()
        self._events = events

    def take(self, relay: str, verb: Verb) -> Fault | None:
        fault = super().take(relay, verb)
        if fault is not None:
            self._events.write(verb=verb, do=fault.do, relay=relay)
        return fault


class WatchedTags(TagCounter):
    """Tags of ours besides those of the inbox."""

    def __init__(self, events: EventLog) -> None:
        super().__init__()
        self._events = events
        self._used: set[tuple[str, str]] = set()

    def take(self, relay: str, recipient: str, verb: Verb) -> Fault | None:
        for word in recipient.rpartition('@')[0].split('+')[1:]:
            tag = TAGS.get(word)
            if tag is None or tag.verb != verb or (tag.times and (word, recipient) in self._used):
                continue
            self._used.add((word, recipient))
            self._events.write(verb=verb, do=word, relay=relay, recipient=recipient)
            return tag.fault
        return super().take(relay, recipient, verb)


class KeepingHandler(RelayHandler):
    """Keeps the message before a misdeed at the dot, when its rule says so."""

    async def handle_DATA(self, server: InboxSession, session: Session, envelope: Envelope) -> str:  # noqa: N802
        fault = self._inbox.rules.take(self._relay.name, 'dot')
        if fault is None:
            return await super().handle_DATA(server, session, envelope)
        if fault.text == KEEP or fault.do == 'store-then-drop':
            kept = self._keep(session, envelope, answered=False)
            await server.carry_out(fault)
            return kept
        return await server.carry_out(fault) or self._keep(session, envelope, answered=True)


class Sink(InboxServer):
    """The sink as a server of the stack; its data directory is its own."""

    name = 'SMTP sink'

    def command(self) -> Command:
        usual = super().command()
        argv = ['tests.chaos.sink' if word == 'dev.inbox' else word for word in usual.argv]
        return Command(argv, cwd=PROJECT, environment=usual.environment)


def main() -> int:
    options = inbox.parse_arguments(None)
    logging.getLogger('mail.log').setLevel(logging.ERROR)
    directory = options.dir.resolve()
    store = MessageStore(directory, durable=options.durable)
    events = EventLog(directory)
    inbox_session.RelayHandler = KeepingHandler
    relays = [
        Relay('primary', options.user, options.password, options.primary_port),
        Relay('backup', options.backup_user, options.backup_password, options.backup_port),
    ]
    state = Inbox(store, WatchedRules(events), WatchedTags(events), server_tls_context(directory))
    try:
        with asyncio.Runner(loop_factory=inbox.event_loop_factory()) as runner:
            runner.run(inbox.InboxProcess(directory, relays, state).run())
    except OSError as error:
        print(f'sink: {error}', file=sys.stderr)  # noqa: T201 - its log
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
