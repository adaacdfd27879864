"""The inbox as the sink of the chaos runs.

`dev.inbox`, which also tells what happens in it, when it happens.

    python -m tests.chaos.sink --dir DIR --primary-port N --backup-port N ...

Every misdeed it begins is a line in DIR/events.jsonl before anything else is done about it. A stall
at the dot whose rule has the text `keep` keeps the message first: the relay has it then, and has
not said so. The tags of TAGS in a recipient's local part hold an attempt where it is, so that the
harness can kill the worker there.
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
SLOW_RCPT_S = 30.0
TAGS = {
    'poison': Tag('rcpt', Fault('stall')),
    'slow-rcpt': Tag('rcpt', Fault('stall', seconds=SLOW_RCPT_S), times=1),
    'after-mail': Tag('rcpt', Fault('stall'), times=1),
    'after-rcpt': Tag('data', Fault('stall'), times=1),
    'at-dot': Tag('dot', Fault('stall'), times=1),
    'at-dot-kept': Tag('dot', Fault('stall', text=KEEP), times=1),
    'pause': Tag('rcpt', Fault('stall', seconds=1.5), times=1),
}
AFTER_DATA = 'after-data'  # gets 354 once, and then nobody reads the body


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

    def takes_no_body(self, relay: str, recipient: str) -> bool:
        if (
            AFTER_DATA not in recipient.rpartition('@')[0].split('+')
            or (AFTER_DATA, recipient) in self._used
        ):
            return False
        self._used.add((AFTER_DATA, recipient))
        self._events.write(verb='body', do=AFTER_DATA, relay=relay, recipient=recipient)
        return True


class KeepingHandler(RelayHandler):
    """Keeps the message before a misdeed at the dot, when its rule says so."""

    async def handle_DATA(self, server: InboxSession, session: Session, envelope: Envelope) -> str:  # noqa: N802
        fault = self._inbox.rules.take(self._relay.name, 'dot') or self._tag_at_dot(envelope)
        if fault is not None and (fault.text == KEEP or fault.do == 'store-then-drop'):
            kept = self._keep(session, envelope, answered=False)
            await server.carry_out(fault)
            return kept
        reply = await server.carry_out(fault) if fault else None
        return reply or self._keep(session, envelope, answered=True)


class SinkSession(InboxSession):
    """Takes no body, once, from who asks for that."""

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        recipients = self.envelope.rcpt_tos if self.envelope else []
        if any(
            self.inbox.tags.takes_no_body(self.relay.name, recipient) for recipient in recipients
        ):
            await self.push('354 Go on')
            await self.carry_out(Fault('stall'))
        await super().smtp_DATA(arg)


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
    inbox.InboxSession = SinkSession
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
