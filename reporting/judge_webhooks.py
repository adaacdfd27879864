"""What is wrong with webhooks, as reporting.judge reports it."""

from collections.abc import Iterable, Iterator

from db.webhook_figures import MOST_WAITING
from logs import hide_addresses
from reporting.kinds import found
from reporting.problems import Document, Problem
from reporting.wording import because, counted, length

EVENTS = ('event', 'events')


def judge_webhook_figures(webhooks: Iterable[Document]) -> Iterator[Problem]:
    """Judge the rows of db.webhook_figures."""
    for webhook in webhooks:
        name = f'the webhook {webhook["id"]} ({webhook["host"]})'
        if not webhook['enabled']:
            why = because(hide_addresses(webhook['disabled_reason']))
            yield found('webhook_disabled', f'{name} is disabled{why}')
        elif webhook['failing_s'] is not None:
            many = 'at least ' if webhook['waiting'] >= MOST_WAITING else ''
            yield found(
                'webhook_failing',
                f'{name} has taken no event for {length(webhook["failing_s"])}, {many}'
                f'{counted(webhook["waiting"], *EVENTS)} waiting'
                f'{because(hide_addresses(webhook["last_error"]))}',
            )
        if webhook['given_up']:
            events = counted(webhook['given_up'], *EVENTS)
            yield found('webhook_gave_up', f'{name}: {events} given up, and not replayed')
