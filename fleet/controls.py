"""What each operator's command does to this worker. Nothing of it outlives the worker: see fleet.switches for that."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from delivery.runtime import Runtime
from engine.dispatcher import Dispatcher
from fleet.channel import Arguments, Handler, RefusedError, Reply, is_count, is_rate
from fleet.events import publish_events
from fleet.registrar import Registrar
from mail.relay.pool import Relay
from mail.route import SwitchableRelays
from mail_outbox.render import Sender
from process.stacks import dump_stacks

LOG_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR')


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What only the program's entry point can do. Errors are RefusedError."""

    load_relays: Callable[
        [], tuple[list[Relay], Sender, float]
    ]  # by the settings as they are now; the drain time
    set_log_level: Callable[[str], None]
    conf: Callable[[], Mapping[str, Any]]  # without secrets


class Controls:
    """The worker's commands, by their words in `handlers`."""

    def __init__(
        self,
        runtime: Runtime,
        dispatcher: Dispatcher,
        registrar: Registrar,
        surroundings: Surroundings,
    ) -> None:
        self.runtime = runtime
        self.dispatcher = dispatcher
        self.registrar = registrar
        self.surroundings = surroundings
        self.spare_jobs = (
            dispatcher.max_jobs - runtime.sweep_size
        )  # that wait for a place, so that none stays empty
        self.handlers: Mapping[str, Handler] = {
            'ping': Handler(lambda _: {'pong': True}),
            'describe': Handler(lambda _: self.registrar.record()),
            'conf': Handler(lambda _: dict(self.surroundings.conf())),
            'stacks': Handler(lambda _: {'stacks': dump_stacks()}),
            'events': Handler(self.send_events),
            'pause': Handler(partial(self.pause, paused=True)),
            'resume': Handler(partial(self.pause, paused=False)),
            'shutdown': Handler(self.shut_down),
            'concurrency': Handler(
                lambda a: self.set_concurrency(a['emails']), {'emails': is_count}
            ),
            'grow': Handler(
                lambda a: self.set_concurrency(self.runtime.sweep_size + a['by']), {'by': is_count}
            ),
            'shrink': Handler(
                lambda a: self.set_concurrency(self.runtime.sweep_size - a['by']), {'by': is_count}
            ),
            'rate_limit': Handler(self.set_rate_limit, {'per_s': is_rate}),
            'log_level': Handler(self.set_log_level, {'level': lambda value: value in LOG_LEVELS}),
            'reload_relays': Handler(self.reload_relays),
        }

    def heed_switches(self) -> None:
        """Have relays and dispatcher do what the switches say."""
        if isinstance(self.runtime.relays, SwitchableRelays):
            self.runtime.relays.pause(self.runtime.switches.relays)
        self.dispatcher.pick_jobs(pick=not self.runtime.switches.claims_paused)

    def apply_switches(self) -> None:
        """Act on switches that have changed; whatever was resumed is sent at once."""
        self.heed_switches()
        self.runtime.signals.sweep_wanted.set()
        self.runtime.suspects_wanted.set()

    def pause(self, _: Arguments, *, paused: bool) -> Reply:
        """Claim neither jobs nor e-mails, until resumed or restarted; what has begun goes on."""
        self.runtime.switches.pause_here(paused=paused)
        self.apply_switches()
        return {'paused': self.runtime.switches.reasons()}

    def shut_down(self, _: Arguments) -> Reply:
        """Stop as by SIGTERM: what has begun may finish within the drain time."""
        # After the reply is on its way.
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
        return {'stopping': True, 'sending': len(self.runtime.under_way)}

    def set_concurrency(self, emails: int) -> Reply:
        """Send so many e-mails at once."""
        if not is_count(emails):
            raise RefusedError(f'{emails} e-mails at once are out of range: 1 to 1000')
        before, self.runtime.sweep_size = self.runtime.sweep_size, emails
        self.dispatcher.max_jobs = max(1, emails + self.spare_jobs)
        self.dispatcher.pick_jobs(pick=not self.runtime.switches.claims_paused)
        connections = {relay.name: relay.options.max_connections for relay in self.runtime.relays}
        return {
            'emails': emails,
            'before': before,
            'jobs': self.dispatcher.max_jobs,
            'connections': connections,
        }

    def set_rate_limit(self, arguments: Arguments) -> Reply:
        """Begin at most so many e-mails a second."""
        before = self.runtime.rate.per_s
        self.runtime.rate.set(float(arguments['per_s']))
        return {'per_s': self.runtime.rate.per_s, 'before': before}

    def set_log_level(self, arguments: Arguments) -> Reply:
        """Log from this level on."""
        self.surroundings.set_log_level(arguments['level'])
        return {'level': arguments['level']}

    async def reload_relays(self, _: Arguments) -> Reply:
        """Read the SMTP settings again; wrong ones are refused, and the old ones stay."""
        if not isinstance(self.runtime.relays, SwitchableRelays):
            raise RefusedError('this worker cannot exchange its relays')
        # In a thread: it reads files, and asks for our own host name.
        relays, sender, drain_s = await asyncio.to_thread(self.surroundings.load_relays)
        self.runtime.relays.replace(relays, drain_s)
        self.runtime.sender = sender
        self.apply_switches()
        return {
            'relays': {relay.name: f'{relay.options.host}:{relay.options.port}' for relay in relays}
        }

    def send_events(self, _: Arguments) -> Reply:
        """Publish what happens for some seconds."""
        self.runtime.events.want(
            partial(
                publish_events,
                self.runtime.redis,
                self.runtime.worker,
                database=self.runtime.neighbours.database,
            )
        )
        return {'events': True}
