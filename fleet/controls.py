"""The operators' side of one worker: what it says of itself, and what each command does to it.

Nothing that a command does outlives the worker; see fleet.switches for what does.
"""

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import structlog

from delivery.runtime import Runtime
from engine.background import keep_alive
from engine.dispatcher import Dispatcher
from fleet.channel import (
    Arguments,
    Handler,
    RefusedError,
    Reply,
    is_count,
    is_rate,
    listen_for_commands,
)
from fleet.describe import describe_emails, describe_jobs, describe_tunables
from fleet.duties import Duty
from fleet.events import publish_events
from fleet.rate_shares import RateShares, keep_sharing
from fleet.registrar import Registrar, keep_registered
from fleet.switches import keep_switches
from mail.route import LoadedRelays, SwitchableRelays
from process.log_writer import dropped_lines
from process.loop_watch import LoopWatch
from process.recycling import Limits, keep_recycling
from process.stacks import dump_stacks

log = structlog.get_logger()

LOG_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR')
REPLY_FIRST_S = 0.2


class Program(Protocol):
    """The program's settings, which only its entry point can read."""

    version: str
    digest: str  # the same for workers with the same settings
    log_level: str

    def conf(self) -> Mapping[str, Any]:
        """Return the settings by their variables' names, without secrets."""

    def set_log_level(self, level: str) -> None:
        """Log from this level on."""

    def load_relays(self) -> LoadedRelays:
        """Return relays, routes and sender by the settings as they are now.

        Raises:
            ValueError: they are wrong, or need a restart; the message says so.
        """


class Controls:
    """Describes one worker, obeys commands for it, and applies the operators' switches to it.

    Attributes:
        switches_changed: Set when switches may have changed in PostgreSQL.
        handlers: The commands by their words.
    """

    def __init__(
        self, runtime: Runtime, dispatcher: Dispatcher, program: Program, duties: Iterable[Duty]
    ) -> None:
        self.switches_changed = asyncio.Event()
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._program = program
        self._loop_watch = LoopWatch(lambda: (key[0] for key in runtime.activity.under_way))
        self._shares = RateShares(
            runtime.stores.redis, runtime.rules.worker, runtime.activity.neighbours.database
        )
        self._registrar = Registrar(runtime.rules.worker, self.describe)
        # Jobs that wait for a slot, so that none stays empty.
        self._spare_jobs = dispatcher.max_jobs - runtime.tunables.max_emails
        self._never_changes = {
            'version': program.version,
            'functions': sorted(dispatcher.functions),
            'duties': [
                {'name': duty.name, 'every_s': duty.every_s, 'missed': duty.missed}
                for duty in duties
            ],
        }
        self.handlers: Mapping[str, Handler] = {
            'ping': Handler(lambda _: {'pong': True}),
            'describe': Handler(lambda _: self._registrar.record()),
            'conf': Handler(lambda _: dict(program.conf())),
            'stacks': Handler(lambda _: {'stacks': dump_stacks()}),
            'events': Handler(self.send_events),
            'pause': Handler(partial(self.pause, paused=True)),
            'resume': Handler(partial(self.pause, paused=False)),
            'shutdown': Handler(self.shut_down),
            'concurrency': Handler(
                lambda a: self.set_concurrency(a['emails']), {'emails': is_count}
            ),
            'grow': Handler(lambda a: self._change_concurrency(a['by']), {'by': is_count}),
            'shrink': Handler(lambda a: self._change_concurrency(-a['by']), {'by': is_count}),
            'rate_limit': Handler(self.set_rate_limit, {'per_s': is_rate}),
            'log_level': Handler(self.set_log_level, {'level': lambda value: value in LOG_LEVELS}),
            'reload_relays': Handler(self.reload_relays),
        }

    def tasks(self, limits: Limits) -> list[asyncio.Task[None]]:
        """Start what serves the operators, until the worker has sent its last e-mail.

        Args:
            limits: When this worker has done its share.
        """
        stores, activity = self._runtime.stores, self._runtime.activity
        starts = (
            partial(keep_registered, stores.redis, self._registrar),
            partial(
                listen_for_commands,
                stores.redis,
                self._runtime.rules.worker,
                self.handlers,
                activity.neighbours.database,
            ),
            partial(
                keep_switches,
                stores.pool,
                self._runtime.tunables.switches,
                self.switches_changed,
                self._switches_have_changed,
            ),
            partial(keep_sharing, self._shares, self._runtime.tunables),
            partial(keep_recycling, limits, self._count_done, _stop),
            self._loop_watch.run,
        )
        return [keep_alive(start) for start in starts]

    def describe(self) -> dict[str, Any]:
        """Return the worker's record as it is now, see fleet.registry.WorkerRecord."""
        return {
            **self._never_changes,
            'settings': self._program.digest,
            'log_level': self._program.log_level,
            'log_lines_dropped': dropped_lines(),
            'loop_holds': self._loop_watch.holds,
            'last_hold': self._loop_watch.last,
            **describe_emails(self._runtime),
            **describe_jobs(self._dispatcher),
            **describe_tunables(self._runtime),
            'concurrency': {
                'emails': self._runtime.tunables.max_emails,
                'jobs': self._dispatcher.max_jobs,
            },
        }

    def apply_switches(self) -> None:
        """Have relays and dispatcher do what the switches say."""
        tunables = self._runtime.tunables
        if isinstance(tunables.relays, SwitchableRelays):
            tunables.relays.pause(tunables.switches.relays)
        self._dispatcher.pick_jobs(pick=not tunables.switches.claims_paused)

    def _switches_have_changed(self) -> None:
        """Apply the switches; whatever was resumed is sent at once."""
        self.apply_switches()
        self._runtime.signals.sweep_wanted.set()
        self._runtime.suspects.wanted.set()

    def pause(self, _: Arguments, *, paused: bool) -> Reply:
        """Claim neither jobs nor e-mails, until resumed or restarted; what has begun goes on."""
        switches = self._runtime.tunables.switches
        switches.pause_here(paused=paused)
        self._switches_have_changed()
        return {'paused': switches.reasons()}

    def shut_down(self, _: Arguments) -> Reply:
        """Stop as by SIGTERM: what has begun may finish within the drain time."""
        asyncio.get_running_loop().call_later(REPLY_FIRST_S, _stop)
        return {'stopping': True, 'sending': len(self._runtime.activity.under_way)}

    def set_concurrency(self, emails: int) -> Reply:
        """Send so many e-mails at once."""
        if not is_count(emails):
            raise RefusedError(f'{emails} e-mails at once are out of range: 1 to 1000')
        tunables = self._runtime.tunables
        before, tunables.max_emails = tunables.max_emails, emails
        self._dispatcher.max_jobs = max(1, emails + self._spare_jobs)
        self._dispatcher.pick_jobs(pick=not tunables.switches.claims_paused)
        connections = {relay.name: relay.options.max_connections for relay in tunables.relays}
        return {
            'emails': emails,
            'before': before,
            'jobs': self._dispatcher.max_jobs,
            'connections': connections,
        }

    def _change_concurrency(self, by: int) -> Reply:
        return self.set_concurrency(self._runtime.tunables.max_emails + by)

    def set_rate_limit(self, arguments: Arguments) -> Reply:
        """Begin at most so many e-mails a second."""
        rate = self._runtime.tunables.rate
        before = rate.per_s
        rate.set(float(arguments['per_s']))
        return {'per_s': rate.per_s, 'before': before}

    def set_log_level(self, arguments: Arguments) -> Reply:
        """Log from this level on."""
        self._program.set_log_level(arguments['level'])
        return {'level': arguments['level']}

    async def reload_relays(self, _: Arguments) -> Reply:
        """Read relays, routes and sender again; wrong ones are refused, and the old ones stay."""
        tunables = self._runtime.tunables
        if not isinstance(tunables.relays, SwitchableRelays):
            raise RefusedError('this worker cannot exchange its relays')
        try:
            # In a thread: it reads files, and asks for our own host name.
            loaded = await asyncio.to_thread(self._program.load_relays)
        except ValueError as error:
            raise RefusedError(f'the old relays stay: {error}') from error
        changed = tunables.relays.replace(loaded.relays, loaded.table, loaded.drain_s)
        tunables.relays.domains.limit(loaded.limits)
        tunables.sender, tunables.signing = loaded.sender, loaded.signing
        self._switches_have_changed()
        places = {r.name: f'{r.options.host}:{r.options.port}' for r in tunables.relays}
        log.info('relays.reloaded', relays=places, changed=changed)
        return {'relays': places, 'changed': changed}

    def send_events(self, _: Arguments) -> Reply:
        """Publish what happens for some seconds."""
        activity = self._runtime.activity
        activity.events.want(
            partial(
                publish_events,
                self._runtime.stores.redis,
                self._runtime.rules.worker,
                database=activity.neighbours.database,
            )
        )
        return {'events': True}

    def _count_done(self) -> int:
        """Return how many e-mails or jobs this worker has done, whichever are more."""
        jobs = self._dispatcher.jobs_complete + self._dispatcher.jobs_failed
        return max(sum(self._runtime.activity.outcomes.values()), jobs)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
