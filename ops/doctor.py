"""Everything that is or will be wrong, with its remedy: the checks, with what the settings say."""

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from rich.console import Console

from configuration.relays import relay_options
from ops.answer import Answer
from ops.arguments import add_json
from ops.celery import check as celery
from ops.connect import Connections
from ops.output import print_table, say
from reporting.checks import (
    cleanup,
    clocks,
    fleet,
    ingress,
    machine,
    mailbox,
    outbox,
    postgresql,
    redis_server,
    refused,
    relays,
    reputation,
    timeouts,
    unsubscribe,
    webhooks,
)
from reporting.checks.finding import Finding, Severity
from reporting.doctor import ORDER, examine
from reporting.problems import USAGE, Document, Problem, ProblemError
from reporting.seen_at import desk_page
from reporting.wording import counted
from settings import Settings


async def check_postgresql(connections: Connections) -> list[Finding]:
    """Look at PostgreSQL, and at the way past a pooler that DATABASE_DIRECT_URL names."""
    direct = connections.settings.database_direct_url
    return await postgresql.check(connections, direct.get_secret_value() if direct else None)


async def check_redis(connections: Connections) -> list[Finding]:
    """Look at the queue's Redis, and at the cache."""
    cache = connections.settings.redis_url
    return await redis_server.check(connections, cache.get_secret_value() if cache else None)


async def check_relays(connections: Connections) -> list[Finding]:
    """Come in at the relays as a worker does."""
    settings = connections.settings
    default = Settings.model_fields['smtp_from_email'].default
    sender = settings.smtp_from_email
    return await relays.check(
        relay_options(settings), settings.email_max_bytes, sender if sender == default else None
    )


async def check_mailbox(connections: Connections) -> list[Finding]:
    """Come in at the mailbox that reports come to."""
    return await mailbox.check(connections.settings.bounce_mailbox)


async def check_unsubscribe(connections: Connections) -> list[Finding]:
    """Look at a link to unsubscribe."""
    return await unsubscribe.check(connections.settings.unsubscribe_links)


async def check_outbox(connections: Connections) -> list[Finding]:
    """Look at the rows, and at what may be deleted."""
    settings = connections.settings
    return [
        *await outbox.check(connections),
        *await cleanup.check(
            connections,
            settings.cleanup_session_tables,
            is_retention_given='email_retention_days' in settings.model_fields_set,
        ),
    ]


async def check_reputation(connections: Connections) -> list[Finding]:
    """Look at what came back, by relay and sender."""
    domain = connections.settings.smtp_from_email.rpartition('@')[2]
    return await reputation.check(connections, domain)


async def check_timeouts(connections: Connections) -> list[Finding]:
    """Look at the times of the settings."""
    return await timeouts.check(times_of(connections.settings))


async def check_disks(_: Connections) -> list[Finding]:
    """Look at this machine."""
    return await machine.check()


def times_of(settings: Settings) -> timeouts.TimeSettings:
    """Return the times that must fit each other."""
    attempts = settings.email_max_attempts
    return timeouts.TimeSettings(
        db_command_timeout_s=settings.db_command_timeout_s,
        lease_s=settings.worker_lease_s,
        drain_s=settings.worker_drain_s,
        smtp_reply_timeout_s=settings.smtp_reply_timeout_s,
        mongodb_timeout_s=settings.mongodb_timeout_s,
        expiry_hours=settings.email_expiry_hours,
        max_attempts=attempts,
        attempts_take_s=settings.retry_policy.times_s(attempts, None)[-1] if attempts else 0.0,
    )


CHECKS: Mapping[str, Callable[[Connections], Awaitable[list[Finding]]]] = {
    'postgresql': check_postgresql,
    'redis': check_redis,
    'celery': celery.check,
    'relays': check_relays,
    'workers': fleet.check,
    'jobs': refused.check,
    'ingress': ingress.check,
    'mailbox': check_mailbox,
    'unsubscribe': check_unsubscribe,
    'outbox': check_outbox,
    'content': outbox.check_content,
    'webhooks': webhooks.check,
    'reputation': check_reputation,
    'clocks': clocks.check,
    'timeouts': check_timeouts,
    'disks': check_disks,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'checks', nargs='*', metavar='CHECK', help=f'only these: {", ".join(CHECKS)}'
    )
    parser.add_argument(
        '--alert',
        action='store_true',
        help='tell whom ALERT_EMAILS and the like name of new errors, and of those that are over',
    )
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Run the checks at the same time. Errors and warnings are problems, notes are not."""
    names = list(dict.fromkeys(options.checks or CHECKS))
    if unknown := [name for name in names if name not in CHECKS]:
        what, remedy = f'there is no check {unknown[0]!r}', f'give some of {", ".join(CHECKS)}'
        raise ProblemError(Problem(what, remedy, exit_status=USAGE))
    document = await examine({name: partial(CHECKS[name], connections) for name in names})
    for row in document['findings']:
        if page := desk_page(connections.settings.web_public_url, row['kind']):
            row['remedy'] = f'{row["remedy"]}; or {page}'
    if options.alert:
        from ops.alerting import alert_of  # noqa: PLC0415 - it takes long to import

        document['alerts'] = await alert_of(connections, document)
    bad = [row for row in document['findings'] if row['severity'] != Severity.NOTE]
    calls = counted(len(bad), 'finding calls', 'findings call')
    return Answer(document, [Problem(f'{calls} for action', 'see the remedies')] if bad else [])


def render(document: Document, console: Console) -> None:
    """Print the findings, the gravest first, and which checks found nothing."""
    print_table(
        console,
        'Findings',
        ('', 'check', 'what', 'remedy'),
        (
            (row['severity'], row['check'], row['what'], row['remedy'])
            for row in document['findings']
        ),
    )
    for notice in document.get('alerts', ()):
        say(console, f'Told: {notice["subject"]} is {notice["kind"]}.')
    counts = Counter(row['severity'] for row in document['findings'])
    fine = [name for name, state in document['checks'].items() if state == 'ok']
    numbers = ', '.join(counted(counts[severity], severity) for severity in ORDER)
    say(console, f'{numbers}. Nothing to say about: {", ".join(fine) or "-"}.')
    if missing := document['not_made']:
        names = '; '.join(
            f'{name} (without {", ".join(services)})' for name, services in missing.items()
        )
        say(console, f'Not made, or only in part: {names}.')
