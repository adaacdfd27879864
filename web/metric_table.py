"""The table of metrics: each with its labels and how it is read from an answer of web.questions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap
from operator import itemgetter
from typing import Any

from db.quotas import EVERYBODY
from engine.refused import REASONS
from fleet.ingresses import ACCEPTED, REFUSALS
from mail.outcome import Outcome
from reporting.judge import CHECK_IS_OLD_S
from reporting.route_states import route_states

MOST_DOMAINS = 50  # each is a time series
OUTBOX_STATES = (
    'due',
    'scheduled',
    'sending',
    'stuck',
    'retrying',
    'dead',
    'uncertain',
    'held',
    'past_expiry',
)
JOB_STATES = ('ready', 'deferred', 'running')
# What a worker counts itself: lost attempts are those of others.
OUTCOMES = (*(outcome.value for outcome in Outcome if outcome is not Outcome.LOST), 'lease-lost')

Row = Mapping[str, Any]
Samples = Iterable[tuple[tuple[Any, ...], Any]]  # label values, value


@dataclass(frozen=True, slots=True)
class Defined:
    """One metric: question is the answer it is read from, see web.questions."""

    name: str
    labels: tuple[str, ...]
    question: str
    read: Callable[[Any], Samples]
    reported: str


def _each(*names: str, value: Callable[[Row], Any]) -> Callable[[Iterable[Row]], Samples]:
    """Read one sample from each row: these parts of it are the labels."""
    return lambda rows: ((tuple(row[name] for name in names), value(row)) for row in rows)


def _outcomes(workers: Iterable[Row]) -> Samples:
    return (((w['worker'], name), w['outcomes'].get(name, 0)) for w in workers for name in OUTCOMES)


def _refused(workers: Iterable[Row]) -> Samples:
    return (
        ((w['worker'], reason), w['refused'].get(reason, 0)) for w in workers for reason in REASONS
    )


def _living(value: Callable[[Row], Any]) -> Callable[[Iterable[Row]], Samples]:
    """Read one sample from each ingress that is not gone."""
    return lambda found: (((i['ingress'],), value(i)) for i in found if i['gone_s'] is None)


def _replies(ingresses: Iterable[Row]) -> Samples:
    return (
        ((i['ingress'], name), i['outcomes'].get(name, 0))
        for i in ingresses if i['gone_s'] is None
        for name in (ACCEPTED, *dict.fromkeys(REFUSALS.values()))
    )  # fmt: skip


def _waits(ingresses: Iterable[Row]) -> Samples:
    return (((i['ingress'], q), wait_s) for i in ingresses for q, wait_s in i['reply_s'].items())


def _quotas(quotas: Iterable[Row]) -> Samples:
    return (
        ((quota['organization_id'], of), quota[name])
        for quota in quotas
        if quota['emails_per_day'] is not None and quota['organization_id'] != EVERYBODY
        for of, name in (('limit', 'emails_per_day'), ('queued', 'queued'))
    )


def _jobs(queues: Iterable[Row]) -> Samples:
    return (((queue['name'], state), queue[state]) for queue in queues for state in JOB_STATES)


def _successes(duties: Iterable[Row]) -> Samples:
    return (((d['duty'],), d['succeeded_at'].timestamp()) for d in duties if d['succeeded_at'])


def _services(services: Iterable[Row]) -> Samples:
    fresh = (s for s in services if s['checked_s'] <= CHECK_IS_OLD_S)
    return (((s['service'],), s['status'] == 'up') for s in fresh)


def _outbox(outbox: Row) -> Samples:
    return (((state,), outbox[state]) for state in OUTBOX_STATES)


def _durations(durations: Mapping[float, float]) -> Samples:
    return (((quantile,), seconds) for quantile, seconds in durations.items())


def _webhook_events(webhooks: Iterable[Row]) -> Samples:
    return (((w['id'], state), w[state]) for w in webhooks for state in ('waiting', 'given_up'))


def _routes(workers: Iterable[Row]) -> Samples:
    return (
        ((name,), any(relays.values()))
        for name, relays in route_states(w for w in workers if not w.get('foreign')).items()
    )


def _slow_domains(workers: Iterable[Row]) -> Samples:
    longest: dict[str, float] = {}
    for told in (told for worker in workers for told in worker['slow_domains']):
        name, left_s = str(told.get('name')), told.get('retry_in_s')
        if isinstance(left_s, int | float):
            longest[name] = max(longest.get(name, 0.0), left_s)
    most = sorted(longest.items(), key=itemgetter(1), reverse=True)[:MOST_DOMAINS]
    return (((name,), left_s) for name, left_s in most)


DEFINED = tuple(starmap(Defined, (
    ('email_outbox_emails', ('state',), 'outbox', _outbox,
     'rows that are not finished, as ops status counts them'),
    ('email_outbox_oldest_due_seconds', (), 'outbox',
     lambda outbox: [((), outbox['oldest_due_s'] or 0)],
     'how long the first due e-mail has been waiting; 0 when none is due'),
    ('email_attempt_duration_seconds', ('quantile',), 'durations', _durations,
     'from claim to result, attempts of the last 5 minutes in email_attempts'),
    ('email_feedback_reports', ('kind',), 'feedback', _each('kind', value=itemgetter('reports')),
     'what came back within a day: bounce, soft-bounce, delay, complaint'),
    ('email_feedback_unmatched', ('kind',), 'feedback',
     _each('kind', value=itemgetter('unmatched')),
     'of these, reports of no e-mail that is known'),
    ('email_attempts_total', ('worker', 'outcome'), 'workers', _outcomes,
     "attempts since the worker's start"),
    ('email_duty_last_success_timestamp_seconds', ('duty',), 'duties', _successes,
     'when a cron duty last ended well'),
    ('email_duty_failed', ('duty',), 'duties',
     _each('duty', value=lambda d: d['outcome'] == 'error'),
     '1 when its last run ended with an error'),
    ('email_service_up', ('service',), 'services', _services,
     'what check_service_health said last, within 3 minutes'),
    ('email_paused', ('kind', 'name'), 'switches', _each('kind', 'name', value=lambda _: 1),
     '1 for everything operators have paused'),
    ('email_quota_emails', ('organization', 'of'), 'quotas', _quotas,
     'what the organisations that are nearest to their quota may queue in a day, and have queued'),
    ('email_webhook_events', ('webhook', 'state'), 'webhooks', _webhook_events,
     'events that wait, 1,000 at most; given up within a day of the last one, and not replayed'),
    ('email_webhook_oldest_waiting_seconds', ('webhook',), 'webhooks',
     _each('id', value=lambda w: w['oldest_waiting_s'] or 0),
     'how long ago the oldest of them happened; 0 when none waits'),
    ('email_webhook_failing_seconds', ('webhook',), 'webhooks',
     _each('id', value=lambda w: w['failing_s'] or 0),
     'how long a webhook has taken no event that was posted to it; 0 when it takes them'),
    ('email_queue_jobs', ('queue', 'state'), 'queues', _jobs,
     'jobs in Redis'),
    ('email_queue_oldest_ready_seconds', ('queue',), 'queues',
     _each('name', value=lambda q: q['oldest_ready_s'] or 0),
     'how long the first ready job has been waiting; 0 without any'),
    ('email_queue_served', ('queue',), 'queues', _each('name', value=lambda q: q['served']),
     '1 when a living worker polls it'),
    ('email_worker_up', ('worker', 'queue', 'version'), 'workers',
     _each('worker', 'queue', 'version', value=lambda _: 1),
     '1 for each living worker'),
    ('email_worker_paused', ('worker',), 'workers',
     _each('worker', value=lambda w: w['state'] == 'paused'),
     '1 when it claims nothing because it was told so'),
    ('email_worker_sending', ('worker',), 'workers', _each('worker', value=lambda w: w['sending']),
     'e-mails under way'),
    ('email_worker_concurrency', ('worker',), 'workers',
     _each('worker', value=lambda w: w['concurrency'].get('emails')),
     'how many it may have under way'),
    ('email_worker_loop_lag_seconds', ('worker',), 'workers',
     _each('worker', value=lambda w: w['loop_lag_ms'] / 1000),
     'the worst delay of its event loop in the last seconds'),
    ('email_worker_loop_holds_total', ('worker',), 'workers',
     _each('worker', value=lambda w: w['loop_holds']),
     'how often its event loop was held for more than a second'),
    ('email_worker_resident_memory_bytes', ('worker',), 'workers',
     _each('worker', value=lambda w: w['rss_bytes']),
     'memory'),
    ('email_worker_log_lines_dropped_total', ('worker',), 'workers',
     _each('worker', value=lambda w: w['log_lines_dropped']),
     'lines of its log that nobody read in time'),
    ('email_worker_refused_jobs_total', ('worker', 'reason'), 'workers', _refused,
     "jobs since the worker's start that could not be run"),
    ('email_worker_uptime_seconds', ('worker',), 'workers',
     _each('worker', value=lambda w: w['uptime_s']),
     'since its start'),
    ('email_route_up', ('route',), 'workers', _routes,
     '1 when a worker can use one of its relays; else its mail waits'),
    ('email_domain_left_alone_seconds', ('domain',), 'workers', _slow_domains,
     'for how long a recipient domain gets no mail since it defers; 50 domains at most'),
    ('email_ingress_up', ('ingress', 'version'), 'ingresses',
     _each('ingress', 'version', value=lambda i: i['gone_s'] is None),
     '1 for each SMTP ingress, 0 for a day where one ended without a goodbye'),
    ('email_ingress_replies_total', ('ingress', 'outcome'), 'ingresses', _replies,
     'messages, commands and connections since its start, by what became of them'),
    ('email_ingress_accepted_bytes_total', ('ingress',), 'ingresses',
     _living(lambda i: i['accepted_bytes']),
     'of the messages it accepted'),
    ('email_ingress_held_bytes', ('ingress',), 'ingresses', _living(lambda i: i['held_bytes']),
     'of the messages it is receiving'),
    ('email_ingress_connections', ('ingress',), 'ingresses', _living(lambda i: i['connections']),
     'clients that are connected'),
    ('email_ingress_connections_limit', ('ingress',), 'ingresses',
     _living(lambda i: i['max_connections']),
     'how many may be'),
    ('email_ingress_reply_seconds', ('ingress', 'quantile'), 'ingresses', _waits,
     'from the final dot to 250, messages of the last 5 minutes'),
    ('email_ingress_loop_lag_seconds', ('ingress',), 'ingresses',
     _living(lambda i: i['loop_lag_ms'] / 1000),
     'the worst delay of its event loop in the last seconds'),
    ('email_ingress_resident_memory_bytes', ('ingress',), 'ingresses',
     _living(lambda i: i['rss_bytes']),
     'memory'),
    ('email_ingress_certificate_expires_timestamp_seconds', ('ingress',), 'ingresses',
     lambda found: (((i['ingress'],), i['certificate_expires_at'])
                    for i in found if i['certificate_expires_at']),
     'when its certificate ends, where it has one'),
)))  # fmt: skip
