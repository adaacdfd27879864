"""Events that go out to other programs."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import Field

from configuration.variables import Variables
from configuration.worker import NetworkList


class WebhookVariables(Variables):
    """Webhooks."""

    webhook_allowed_networks: NetworkList = Field(
        default=(),
        description='Networks beside the public addresses that events may be posted to, comma '
        'separated: 10.1.2.0/24,127.0.0.1. Only there http:// is accepted.',
    )
    webhook_timeout_s: float = Field(
        default=15,
        ge=1,
        le=60,
        description='One delivery of an event, with the look-up of the name and the answer.',
    )
    webhook_connections: int = Field(
        default=4,
        ge=1,
        le=50,
        description='Events that a worker posts to one endpoint at once.',
    )
    webhook_retention_days: int = Field(
        default=7,
        ge=1,
        le=365,
        description='Deliveries are deleted after this; until then they can be replayed.',
    )

    @property
    def webhook_rules(self) -> tuple[tuple[IPv4Network | IPv6Network, ...], float, int, int]:
        """Networks, seconds, connections and days, as delivery.rules.WebhookRules has them."""
        return (
            self.webhook_allowed_networks,
            self.webhook_timeout_s,
            self.webhook_connections,
            self.webhook_retention_days,
        )
