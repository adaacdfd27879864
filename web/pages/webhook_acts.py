"""What a person may do about webhooks: test one, stop and start it, post events again."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from actions.safety import RequestError
from actions.webhooks import (
    ReplayTimes,
    known_endpoint,
    post_test,
    remove_endpoint,
    replay_deliveries,
    switch_endpoint,
)
from db.selection import read_clock
from reporting.problems import Problem
from reporting.wording import counted
from web.auth.people import Role
from web.pages.act_kinds import ActKind, ActRequest

Told = tuple[list[str], list[Problem]]
REPLAYED_HOURS: Mapping[str, int] = {'1 h': 1, '24 h': 24, '7 d': 168}
LONGEST_ID = 18  # digits


def _id_of(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_ID):
        raise RequestError('this is no id', 'go back, and choose one')
    return int(text)


async def _test(asked: ActRequest) -> Told:
    webhook_id = _id_of(asked.name)
    if asked.dry_run:
        webhook = await known_endpoint(asked.servers, webhook_id)
        return [f'goes to {webhook["url"]}'], []
    delivery_id = await post_test(asked.servers, webhook_id)
    return [f'delivery {delivery_id}: its page says what came of it'], []


async def _switch(asked: ActRequest, *, enabled: bool) -> Told:
    webhook_id = _id_of(asked.name)
    webhook = await known_endpoint(asked.servers, webhook_id)
    await switch_endpoint(
        asked.servers, webhook_id, enabled=enabled, reason=asked.reason or None,
        dry_run=asked.dry_run,
    )  # fmt: skip
    return [f'of {webhook["url"]}'], []


async def _remove(asked: ActRequest) -> Told:
    webhook_id = _id_of(asked.name)
    webhook = await known_endpoint(asked.servers, webhook_id)
    await remove_endpoint(asked.servers, webhook_id, dry_run=asked.dry_run)
    return [f'nothing more goes to {webhook["url"]}'], []


async def _replay_one(asked: ActRequest) -> Told:
    """Post one again: name is the delivery, kind its webhook."""
    replayed = await replay_deliveries(
        asked.servers, _id_of(asked.kind), [_id_of(asked.name)], dry_run=asked.dry_run
    )
    return [_replayed(replayed)], []


async def _replay_time(asked: ActRequest) -> Told:
    """Post what is dead of a time again: name is the webhook, kind the time."""
    if asked.kind not in REPLAYED_HOURS:
        raise RequestError('there is no such time', 'go back, and choose one')
    now = await asked.servers.ask_postgres(read_clock)
    times = ReplayTimes(now - timedelta(hours=REPLAYED_HOURS[asked.kind]), now)
    replayed = await replay_deliveries(
        asked.servers, _id_of(asked.name), times, dry_run=asked.dry_run
    )
    return [_replayed(replayed)], []


def _replayed(number: int) -> str:
    return f'{counted(number, "delivery", "deliveries")}, each with the id that it had'


WEBHOOK_ACTS: Mapping[str, ActKind] = {
    'test-webhook': ActKind(
        Role.OPERATE, 'Test the webhook {name}', 'A worker posts an event that tells of nothing.',
        'Test', 'webhook.test', _test, '/webhooks',
    ),
    'enable-webhook': ActKind(
        Role.ADMINISTER, 'Post events again: webhook {name}', 'From now on.', 'Enable',
        'webhook.enable', partial(_switch, enabled=True), '/webhooks',
    ),
    'disable-webhook': ActKind(
        Role.ADMINISTER, 'Post no events for now: webhook {name}',
        'What happens meanwhile is not told later.', 'Disable', 'webhook.disable',
        partial(_switch, enabled=False), '/webhooks', wants_reason=True,
    ),
    'remove-webhook': ActKind(
        Role.ADMINISTER, 'Remove the webhook {name}', 'Its secret is gone for good.', 'Remove',
        'webhook.remove', _remove, '/webhooks', wants_reason=True,
    ),
    'replay-delivery': ActKind(
        Role.OPERATE, 'Post the delivery {name} again', 'At once, with the id that it had.',
        'Replay', 'webhook.replay', _replay_one, '/webhooks',
    ),
    'replay-webhook': ActKind(
        Role.OPERATE, 'Post again what is dead of the last {kind}: webhook {name}',
        'What was delivered is left alone, and what waits is posted anyway.', 'Replay',
        'webhook.replay', _replay_time, '/webhooks',
    ),
}  # fmt: skip
