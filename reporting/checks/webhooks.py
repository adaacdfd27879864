"""Webhooks: endpoints that take no events, and events that were given up."""

from collections.abc import Iterable, Iterator, Mapping

from db.times import Row
from db.webhook_replays import count_dead
from db.webhooks import MOST_COUNTED, read_webhooks
from reporting.checks.finding import Finding, error, note, warning
from reporting.servers import Servers
from reporting.wording import cell, counted

EVENTS = ('event', 'events')


async def check(servers: Servers) -> list[Finding]:
    """Look at how each webhook's deliveries go."""
    webhooks = await servers.ask_postgres(read_webhooks)
    dead = await servers.ask_postgres(count_dead) if webhooks else {}
    return list(judge_webhooks(webhooks, dead))


def judge_webhooks(webhooks: Iterable[Row], dead: Mapping[int, int]) -> Iterator[Finding]:
    """Judge rows of db.webhooks.read_webhooks.

    Args:
        dead: By webhook, how many deliveries were given up within a day.
    """
    for webhook in webhooks:
        name = f'webhook {webhook["id"]} ({webhook["url"]})'
        seen = f'python -m ops webhook deliveries {webhook["id"]}'
        if not webhook['enabled']:
            why = webhook['disabled_reason']
            because = f': {why}' if why else ''
            remedy = f'`python -m ops webhook enable {webhook["id"]}`, or rm'
            yield note(f'{name} is disabled{because}', remedy)
        elif webhook['failing_since']:
            waiting = webhook['waiting']
            many = 'more than ' if waiting >= MOST_COUNTED else ''
            what = (
                f'{name} fails since {cell(webhook["failing_since"])}, '
                f'{many}{counted(waiting, *EVENTS)} waiting: {webhook["last_error"]}'
            )
            yield warning(what, f'see to the receiver; `{seen}`')
        if dead.get(webhook['id']):
            what = f'{name}: {counted(dead[webhook["id"]], *EVENTS)} given up within a day'
            remedy = f'`python -m ops webhook replay {webhook["id"]} --since 2d` when it works'
            yield error(what, remedy)
