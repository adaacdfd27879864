"""A worker's description of itself, for its record in the registry and for `ops inspect`."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from delivery.runtime import Runtime
from engine.dispatcher import Dispatcher
from fleet.registry import MAX_LISTED
from fleet.route_record import describe_routes
from logs import hide_addresses
from mail.relay.pool import Relay
from mail.route import SwitchableRelays
from mail.route_table import domain_of


def describe_emails(runtime: Runtime) -> dict[str, Any]:
    """Return what is under way, and what became of the e-mails and jobs before."""
    activity = runtime.activity
    emails = [
        {
            'id': email_id,
            'phase': progress.phase.value,
            'relay': progress.relay,
            'started_at': round(progress.started_at, 3),
        }
        for (email_id, _), progress in islice(activity.under_way.items(), MAX_LISTED)
    ]
    return {
        'database': activity.neighbours.database,
        'emails': emails,
        'sending': len(activity.under_way),
        'held': len(runtime.claimer.leases.held()),
        'outcomes': dict(activity.outcomes),
        'refused': dict(activity.refused.counts),
        'refused_jobs': without_addresses(activity.refused.latest()),
    }


def describe_jobs(dispatcher: Dispatcher) -> dict[str, Any]:
    """Return the jobs that run, and how many have ended."""
    jobs = [
        {'job_id': job_id, 'started_at': round(dispatcher.job_started_at.get(job_id, 0.0), 3)}
        for job_id in islice(dispatcher.tasks, MAX_LISTED)
    ]
    return {
        'queue': dispatcher.queue_name,
        'jobs': jobs,
        'running_jobs': len(dispatcher.tasks),
        'jobs_done': {
            'complete': dispatcher.jobs_complete,
            'failed': dispatcher.jobs_failed,
            'retried': dispatcher.jobs_retried,
        },
    }


def describe_tunables(runtime: Runtime) -> dict[str, Any]:
    """Return what operators may change, as it is now."""
    tunables = runtime.tunables
    state = 'paused' if tunables.switches.claims_paused else 'running'
    return {
        'rate_limit_per_s': tunables.rate.per_s,
        'state': 'stopping' if runtime.signals.stopping.is_set() else state,
        'paused': tunables.switches.reasons(),
        'safety': runtime.rules.safety.names,
        'sender_domain': domain_of(tunables.sender.address),
        'slow_domains': [
            {'name': domain, 'retry_in_s': round(left_s, 1), 'last_error': reason}
            for domain, left_s, reason in tunables.relays.domains.left_alone()[:MAX_LISTED]
        ],
        'routes': describe_routes(tunables.relays.table)
        if isinstance(tunables.relays, SwitchableRelays)
        else [],
        'relays': [_describe_relay(relay, tunables.switches.relays) for relay in tunables.relays],
    }


def _describe_relay(relay: Relay, paused: frozenset[str]) -> Mapping[str, Any]:
    wait_s = relay.unavailable_for_s()
    state = 'paused' if relay.name in paused else 'cooling down' if wait_s else 'ready'
    error = relay.last_error or relay.rate.reason
    return {
        'name': relay.name,
        'place': f'{relay.options.host}:{relay.options.port}',
        'tls': relay.options.tls.value,
        'state': state,
        'retry_in_s': round(wait_s, 1),
        'most_per_s': round(relay.rate.per_s, 1) or None,
        'last_error': error[:200] if error else None,
    }


def without_addresses(refused: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return refused jobs as everybody may see them, see engine.refused.RefusedJobs."""
    return [{**job, 'why': hide_addresses(job['why'])} for job in refused]
