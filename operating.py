"""The operators' side of the worker: its record, the commands it obeys, the switches it heeds. Wiring only."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from configuration.view import digest, program_version, view
from cron import SCHEDULES
from delivery.runtime import Runtime
from engine.background import keep_alive
from fleet.channel import RefusedError, listen_for_commands
from fleet.controls import Controls, Surroundings
from fleet.portrait import describe, finished
from fleet.registrar import Registrar, keep_registered
from fleet.switches import keep_switches
from logs import configure_logs
from mail.relay.pool import Relay
from mail_outbox.render import Sender
from process.loop_watch import LoopWatch
from process.recycling import Limits, keep_recycling
from settings import Settings, load_settings

log = structlog.get_logger()


class Operating:
    """What the settings are now that operators may change while the worker runs, and the tasks that serve them."""

    def __init__(
        self,
        ctx: dict[str, Any],
        settings: Settings,
        make_relays: Callable[[Settings], list[Relay]],
    ) -> None:
        self.runtime: Runtime = ctx['runtime']
        self.dispatcher = ctx['dispatcher']
        self.settings = settings
        self.make_relays = make_relays
        self.job_timeout_s = settings.job_timeout_s  # arq's, which cannot change while it runs
        self.log_level: str = settings.log_level
        self.digest = digest(settings)
        self.never_changes = {
            'version': program_version(),
            'functions': sorted(self.dispatcher.functions),
            'duties': [
                {'name': s.name, 'every_s': s.every_s, 'missed': s.missed} for s in SCHEDULES
            ],
        }
        self.loop_watch = LoopWatch(lambda: (email_id for email_id, _ in self.runtime.under_way))
        self.registrar = Registrar(self.runtime.worker, self.describe)
        surroundings = Surroundings(
            self.load_relays, self.set_log_level, lambda: view(self.settings)
        )
        self.controls = Controls(self.runtime, self.dispatcher, self.registrar, surroundings)
        self.switches_changed = asyncio.Event()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Start what serves the operators, until the worker has sent its last e-mail."""
        runtime = self.runtime
        limits = Limits(
            self.settings.worker_recycle_jobs, self.settings.worker_recycle_rss_mib * 2**20
        )
        done = partial(finished, runtime, self.dispatcher)
        stop = partial(os.kill, os.getpid(), signal.SIGTERM)
        starts = (
            partial(keep_registered, runtime.redis, self.registrar),
            partial(
                listen_for_commands,
                runtime.redis,
                runtime.worker,
                self.controls.handlers,
                runtime.neighbours.database,
            ),
            partial(
                keep_switches,
                runtime.pool,
                runtime.switches,
                self.switches_changed,
                self.controls.apply_switches,
            ),
            partial(keep_recycling, limits, done, stop),
            self.loop_watch.run,
        )
        return [keep_alive(start) for start in starts]

    def describe(self) -> dict[str, Any]:
        """Return the worker's record."""
        told: dict[str, Any] = {'settings': self.digest, 'log_level': self.log_level}
        told |= {'loop_holds': self.loop_watch.holds, 'last_hold': self.loop_watch.last}
        return {**self.never_changes, **told, **describe(self.runtime, self.dispatcher)}

    def set_log_level(self, level: str) -> None:
        """Log from this level on."""
        self.log_level = level
        configure_logs(level, self.settings.log_format)

    def load_relays(self) -> tuple[list[Relay], Sender, float]:
        """Read the settings again and make the relays they speak of.

        Raises:
            RefusedError: the settings are wrong; it names the variable.
        """
        try:
            fresh = load_settings()
            relays = self.make_relays(fresh)
        except (SystemExit, OSError, ValueError) as error:
            raise RefusedError(f'the old relays stay: {error}') from error
        if fresh.job_timeout_s > self.job_timeout_s:
            raise RefusedError(
                'the old relays stay: longer SMTP_*_TIMEOUT_S need a restart of the worker'
            )
        smtp = {
            name: getattr(fresh, name) for name in Settings.model_fields if name.startswith('smtp_')
        }
        self.settings = self.settings.model_copy(update=smtp)
        self.digest = digest(self.settings)
        return relays, Sender(fresh.smtp_from_email, fresh.smtp_from_name), fresh.job_timeout_s
