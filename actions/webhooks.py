"""Webhooks: add one, take it away, stop and start it, change its secret, test it, replay events."""

import base64
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from actions.safety import RequestError, agree
from db import webhook_replays, webhooks
from db.times import Row
from db.webhook_capture import TEST_EVENT, WebhookEvent
from delivery.webhooks.target import TargetError, read_target
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers

PREFIX = 'whsec_'  # of Standard Webhooks
SECRET_BYTES = 32
LONGEST_DESCRIPTION = 200
SEE_WEBHOOKS = 'see `python -m ops webhook ls`'


@dataclass(frozen=True, slots=True)
class WebhookAdded:
    """A webhook and its secret, which nobody can read a second time; dry_run: no id, no secret."""

    id: int | None
    secret: str | None
    event_types: Sequence[str] | None  # None: all


def new_signing_secret() -> str:
    """Return a secret: the prefix, and 256 random bits in base64."""
    return f'{PREFIX}{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}'


async def add_endpoint(
    servers: Servers,
    url: str,
    *,
    created_by: str,
    event_types: Sequence[WebhookEvent] = (),
    organization_id: str | None = None,
    description: str | None = None,
    dry_run: bool = False,
    confirm: Callable[[str], None] = agree,
) -> WebhookAdded:
    """Have events posted to a URL from now on.

    Args:
        event_types: Only these; none: all.
        organization_id: Only those of this one's e-mails.
    Raises:
        RequestError: nothing can be posted there; ProblemError: PostgreSQL does not answer, or
            somebody holds outbound_emails. Nothing was added.
    """
    try:
        read_target(url)
    except TargetError as error:
        raise RequestError(str(error), 'correct the URL') from error
    kinds = [str(kind) for kind in WebhookEvent if kind in event_types] or None
    if dry_run:
        return WebhookAdded(None, None, kinds)
    confirm(url)
    new = webhooks.NewWebhook(
        url, new_signing_secret(), kinds, organization_id, description, created_by[:100]
    )
    webhook_id = await servers.ask_postgres(partial(webhooks.add_webhook, new=new))
    if webhook_id is None:
        what = f'there are {webhooks.MOST_WEBHOOKS} webhooks'
        raise ProblemError(Problem(what, f'remove some first: {SEE_WEBHOOKS}'))
    return WebhookAdded(webhook_id, new.secret, kinds)


async def known_endpoint(
    servers: Servers, webhook_id: int, organization_id: str | None = None
) -> Row:
    """Return a webhook as db.webhooks.read_webhooks has it.

    Args:
        organization_id: Of who asks: others' webhooks do not exist for it.
    Raises:
        RequestError: there is none.
    """
    reading = partial(
        webhooks.read_webhooks, organization_id=organization_id, webhook_id=webhook_id
    )
    if found := await servers.ask_postgres(reading):
        return found[0]
    raise no_webhook(webhook_id)


def no_webhook(webhook_id: int) -> RequestError:
    """Return the refusal."""
    return RequestError(f'there is no webhook {webhook_id}', SEE_WEBHOOKS)


async def remove_endpoint(servers: Servers, webhook_id: int, *, dry_run: bool = False) -> None:
    """Post nothing more there; what waits for it is dead within a day.

    Raises:
        RequestError: there is none; the same for the others here.
    """
    if dry_run:
        await known_endpoint(servers, webhook_id)
    elif not await servers.ask_postgres(partial(webhooks.remove_webhook, webhook_id=webhook_id)):
        raise no_webhook(webhook_id)


async def switch_endpoint(
    servers: Servers,
    webhook_id: int,
    *,
    enabled: bool,
    reason: str | None = None,
    dry_run: bool = False,
) -> None:
    """Post there again, or nothing for now: while it is disabled no event is written for it."""
    if dry_run:
        await known_endpoint(servers, webhook_id)
        return
    switching = partial(
        webhooks.enable_webhook, webhook_id=webhook_id, enabled=enabled, reason=reason
    )
    if not await servers.ask_postgres(switching):
        raise no_webhook(webhook_id)


async def rotate_endpoint_secret(
    servers: Servers, webhook_id: int, *, dry_run: bool = False
) -> str | None:
    """Sign with a new secret, and with the one before as well for PREVIOUS_SECRET_HOURS.

    Returns:
        The secret, which nobody can read a second time; dry_run: None.
    """
    if dry_run:
        await known_endpoint(servers, webhook_id)
        return None
    secret = new_signing_secret()
    rotating = partial(webhooks.rotate_secret, webhook_id=webhook_id, secret=secret)
    if not await servers.ask_postgres(rotating):
        raise no_webhook(webhook_id)
    return secret


async def post_test(servers: Servers, webhook_id: int) -> int:
    """Have a worker post an event that tells of nothing. Returns the delivery's id.

    Raises:
        RequestError: there is no such webhook that is enabled.
    """
    adding = partial(webhook_replays.add_test, webhook_id=webhook_id, event_type=TEST_EVENT)
    delivery_id = await servers.ask_postgres(adding)
    if delivery_id is None:
        raise RequestError(f'there is no webhook {webhook_id} that is enabled', SEE_WEBHOOKS)
    return delivery_id


@dataclass(frozen=True, slots=True)
class ReplayTimes:
    """What happened in a time: dead deliveries, or delivered ones as well."""

    since: datetime
    until: datetime
    with_delivered: bool = False

    @property
    def statuses(self) -> Sequence[str]:
        """Of the deliveries that are meant."""
        return ('dead', 'delivered') if self.with_delivered else ('dead',)


async def replay_deliveries(
    servers: Servers,
    webhook_id: int,
    which: Sequence[int] | ReplayTimes,
    *,
    dry_run: bool = False,
    confirm: Callable[[int], None] = agree,
) -> int:
    """Post deliveries again, each with the id that it had; what waits is posted anyway.

    Args:
        which: Their ids, or when they happened.
        confirm: Gets how many, where that is known before.
    Returns:
        How many are posted again, or would be.
    Raises:
        RequestError: there is no such webhook, or it is disabled.
    """
    webhook = await known_endpoint(servers, webhook_id)
    if not webhook['enabled']:
        remedy = f'enable it first: `python -m ops webhook enable {webhook_id}`'
        raise RequestError(f'the webhook {webhook_id} is disabled', remedy)
    if not isinstance(which, ReplayTimes):
        if dry_run:
            return len(which)
        confirm(len(which))
        replaying = partial(webhook_replays.replay_these, delivery_ids=which, webhook_id=webhook_id)
        return len(await servers.ask_postgres(replaying))
    times = (webhook_id, which.since, which.until, which.statuses)
    found = await servers.ask_postgres(lambda pool: webhook_replays.count_between(pool, *times))
    if dry_run or not found:
        return found
    confirm(found)
    return await _replay_between(servers, times, found)


async def _replay_between(
    servers: Servers, times: tuple[int, datetime, datetime, Sequence[str]], total: int
) -> int:
    done, last_id = 0, 0
    while True:
        after_id = last_id
        ids = await servers.ask_postgres(
            lambda pool: webhook_replays.replay_between(pool, *times, after_id)  # noqa: B023 - awaited here
        )
        if not ids:
            return done
        done, last_id = done + len(ids), ids[-1]
        if not servers.progress(done, total):
            return done
