"""Recipient domains that workers leave alone for a while, because they deferred several e-mails."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.registry import WorkerRecord
from logs import hide_addresses


@dataclass(frozen=True, slots=True)
class DomainLeftAlone:
    """One domain: for how long the worker that is longest away leaves it alone, and why."""

    domain: str
    workers: int
    left_s: float
    reason: str


def left_alone(workers: Iterable[WorkerRecord]) -> list[DomainLeftAlone]:
    """Return the domains by name."""
    found: dict[str, DomainLeftAlone] = {}
    for worker in workers:
        for told in worker.slow_domains:
            domain = str(told.get('name'))
            left_s, reason = _seconds(told), hide_addresses(str(told.get('last_error') or '')) or ''
            known = found.get(domain) or DomainLeftAlone(domain, 0, 0.0, reason)
            longest_s = max(known.left_s, left_s)
            found[domain] = DomainLeftAlone(domain, known.workers + 1, longest_s, known.reason)
    return sorted(found.values(), key=lambda slow: slow.domain)


def _seconds(told: Mapping[str, Any]) -> float:
    left_s = told.get('retry_in_s')
    return float(left_s) if isinstance(left_s, int | float) else 0.0
