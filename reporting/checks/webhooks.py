"""Webhooks: endpoints that take no events, and events that were given up."""

from db.webhook_figures import read_webhook_figures
from reporting.checks.finding import Finding, from_judge
from reporting.judge_webhooks import judge_webhook_figures
from reporting.servers import Servers


async def check(servers: Servers) -> list[Finding]:
    """Have the judge look at how each webhook's deliveries go."""
    webhooks = await servers.ask_postgres(read_webhook_figures)
    return [*map(from_judge, judge_webhook_figures(webhooks))]
