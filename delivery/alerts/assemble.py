"""Alerts of one process, from what the settings say."""

from dataclasses import dataclass
from datetime import timedelta

from delivery.alerts.alerter import Alerter
from delivery.alerts.channels import AppriseChannel, Channel, MailChannel, WebhookChannel
from delivery.alerts.postgres_watch import PostgresWatch
from delivery.rules import Stores
from delivery.tunables import Tunables
from mail.route import Relays
from mail_outbox.address_fields import Sender

AlertValues = tuple[str | None, str | None, str | None, float]


@dataclass(frozen=True, slots=True)
class AlertRules:
    """Whom to tell, and when again; secrets are plain here."""

    emails: str | None = None
    webhook_url: str | None = None
    apprise_urls: str | None = None
    remind_s: float = 3600


@dataclass(frozen=True, slots=True)
class Alerts:
    """Who tells of services that are down."""

    services: Alerter
    postgres: PostgresWatch


def make_alerter(rules: AlertRules, source: str, relays: Relays, sender: Sender) -> Alerter | None:
    """Return who tells; None where nobody is to be told."""
    channels: list[Channel] = []
    if rules.emails:
        channels.append(MailChannel(relays, sender, rules.emails))
    if rules.webhook_url:
        channels.append(WebhookChannel(rules.webhook_url))
    if rules.apprise_urls:
        channels.append(AppriseChannel(rules.apprise_urls.split()))
    return Alerter(channels, source, timedelta(seconds=rules.remind_s)) if channels else None


def make_alerts(
    values: AlertValues, worker: str, stores: Stores, tunables: Tunables
) -> Alerts | None:
    """Return the same for a worker, which also watches PostgreSQL.

    Args:
        values: What AlertRules is made of.
    """
    rules, source = AlertRules(*values), f'worker {worker}'
    alerter = make_alerter(rules, source, tunables.relays, tunables.sender)
    return None if alerter is None else Alerts(alerter, PostgresWatch(alerter, stores.redis))
