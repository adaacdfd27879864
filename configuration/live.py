"""The settings of a running worker: what operators see of them, and change without a restart."""

from collections.abc import Callable, Mapping
from typing import Any

from configuration.dkim_keys import make_signing
from configuration.relays import relay_options
from configuration.version import program_version
from configuration.view import digest, view
from logs import configure_logs
from mail.domains import DomainLimit
from mail.relay.pool import Relay
from mail.route import LoadedRelays
from mail.route_table import RouteTable
from mail_outbox.address_fields import Sender
from settings import Settings

LISTS = ('relays', 'routes', 'domain_limits', 'dkim_keys')


def make_relays(settings: Settings) -> list[Relay]:
    """Return the configured relays, the preferred one first."""
    return [Relay(options) for options in relay_options(settings)]


def make_routes(settings: Settings) -> RouteTable:
    """Return the configured routes."""
    return RouteTable([entry.route() for entry in settings.routes])


def make_domain_limits(settings: Settings) -> list[DomainLimit]:
    """Return the configured limits of recipient domains."""
    return [entry.limit() for entry in settings.domain_limits]


class LiveSettings:
    """The settings as they were read last."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        """Say which they are now.

        Args:
            load: Reads them again.
        """
        self.version = program_version()
        self.digest = digest(settings)
        self.log_level: str = settings.log_level
        self._settings = settings
        self._load = load
        self._job_timeout_s = settings.job_timeout_s  # arq's, which cannot change while it runs

    def conf(self) -> Mapping[str, Any]:
        """Return the settings by their variables' names, without secrets."""
        return view(self._settings)

    def set_log_level(self, level: str) -> None:
        """Log from this level on."""
        self.log_level = level
        configure_logs(level, self._settings.log_format)

    def load_relays(self) -> LoadedRelays:
        """Read the settings again.

        Raises:
            ValueError: the settings are wrong; it names the variable.
        """
        try:
            fresh = self._load()
            relays, signing = make_relays(fresh), make_signing(fresh)
        except (SystemExit, OSError) as error:
            raise ValueError(str(error)) from error
        if fresh.job_timeout_s > self._job_timeout_s:
            raise ValueError('longer SMTP_*_TIMEOUT_S need a restart of the worker')
        smtp = {
            name: getattr(fresh, name)
            for name in Settings.model_fields
            if name.startswith('smtp_') or name in LISTS
        }
        self._settings = self._settings.model_copy(update=smtp)
        self.digest = digest(self._settings)
        sender = Sender(fresh.smtp_from_email, fresh.smtp_from_name)
        return LoadedRelays(
            relays,
            make_routes(fresh),
            make_domain_limits(fresh),
            sender,
            fresh.job_timeout_s,
            signing,
        )
