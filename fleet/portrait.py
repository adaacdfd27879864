"""What a worker says of itself: the parts of its record that its runtime and its dispatcher know."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from delivery.runtime import Runtime
from engine.dispatcher import Dispatcher
from fleet.registry import MAX_LISTED
from logs import hide_addresses
from mail.relay.pool import Relay
from process.log_writer import dropped_lines


def describe(runtime: Runtime, dispatcher: Dispatcher) -> dict[str, Any]:
    """Return the worker's record as it is now, see fleet.registry.WorkerRecord; without what never changes."""
    emails = [
        {
            'id': email_id,
            'phase': p.phase.value,
            'relay': p.relay,
            'started_at': round(p.started_at, 3),
        }
        for (email_id, _), p in islice(runtime.under_way.items(), MAX_LISTED)
    ]
    jobs = [
        {'job_id': job_id, 'started_at': round(dispatcher.job_started_at.get(job_id, 0.0), 3)}
        for job_id in islice(dispatcher.tasks, MAX_LISTED)
    ]
    return {
        'queue': dispatcher.queue_name,
        'database': runtime.neighbours.database,
        'emails': emails,
        'sending': len(runtime.under_way),
        'held': len(runtime.leases.held()),
        'jobs': jobs,
        'running_jobs': len(dispatcher.tasks),
        'outcomes': dict(runtime.outcomes),
        'jobs_done': {
            'complete': dispatcher.jobs_complete,
            'failed': dispatcher.jobs_failed,
            'retried': dispatcher.jobs_retried,
        },
        'refused': dict(runtime.refused.counts),
        'refused_jobs': without_addresses(runtime.refused.latest()),
        'concurrency': {'emails': runtime.sweep_size, 'jobs': dispatcher.max_jobs},
        'rate_limit_per_s': runtime.rate.per_s,
        'state': _state(runtime),
        'paused': runtime.switches.reasons(),
        'log_lines_dropped': dropped_lines(),
        'relays': [_relay(relay, runtime.switches.relays) for relay in runtime.relays],
    }


def without_addresses(refused: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return refused jobs as everybody may see them, see engine.refused.RefusedJobs."""
    return [{**job, 'why': hide_addresses(job['why'])} for job in refused]


def _state(runtime: Runtime) -> str:
    if runtime.signals.stopping.is_set():
        return 'stopping'
    return 'paused' if runtime.switches.claims_paused else 'running'


def _relay(relay: Relay, paused: frozenset[str]) -> Mapping[str, Any]:
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


def finished(runtime: Runtime, dispatcher: Dispatcher) -> int:
    """Return how many e-mails or jobs this worker has done, whichever are more."""
    jobs = dispatcher.jobs_complete + dispatcher.jobs_failed
    return max(sum(runtime.outcomes.values()), jobs)
