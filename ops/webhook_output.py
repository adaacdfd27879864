"""How webhooks and their deliveries are printed."""

from collections.abc import Sequence

from rich.console import Console

from db.times import Row
from ops.output import print_table, say
from reporting.wording import as_json, cell, counted


def endpoint_state(webhook: Row) -> str:
    """Return how a webhook is, in a word or two."""
    if not webhook['enabled']:
        return f'disabled: {webhook["disabled_reason"] or "by an operator"}'
    if webhook['failing_since']:
        return f'fails since {cell(webhook["failing_since"])}'
    return 'ok'


def render_webhooks(webhooks: Sequence[Row], console: Console) -> None:
    """Print where events go."""
    print_table(
        console,
        counted(len(webhooks), 'webhook'),
        ('id', 'url', 'events', 'organization', 'state', 'waiting', 'last delivered', 'last error'),
        (
            (w['id'], w['url'], ', '.join(w['event_types'] or ['all']), w['organization_id'],
             endpoint_state(w), w['waiting'], w['last_delivered_at'],
             w['last_error'] if w['failing_since'] else None)
            for w in webhooks
        ),
    )  # fmt: skip


def render_deliveries(deliveries: Sequence[Row], console: Console) -> None:
    """Print what became of events."""
    print_table(
        console,
        counted(len(deliveries), 'delivery', 'deliveries'),
        ('id', 'webhook', 'event', 'e-mail', 'happened', 'status', 'tries', 'answer', 'next try'),
        (
            (d['id'], d['webhook_id'], d['event_type'], d['email_id'], d['occurred_at'],
             d['status'], d['attempts'], d['error'] or d['http_status'], d['next_retry_at'])
            for d in deliveries
        ),
    )  # fmt: skip


def render_delivery(delivery: Row, console: Console) -> None:
    """Print one with what is posted."""
    print_table(
        console,
        f'Delivery {delivery["id"]}',
        ('', 'value'),
        [(name, value) for name, value in delivery.items() if name != 'payload'],
    )
    say(console, as_json(delivery['payload']))
