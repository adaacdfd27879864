"""Recipient domains: those with a limit of ours, and those that take nothing just now.

An e-mail to one of them that has to wait is given back at once, with its time: it holds neither a
connection nor a claim. Where no domain has a limit and none is slow, nothing is looked up.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mail.domain_replies import is_about_domain
from mail.outcome import Outcome, Phase, Reply
from mail.relay.learned_rate import LearnedRate
from mail.route_table import domain_of, is_below

# After so many e-mails in a row that were deferred because of their domain, with none accepted
# between them, it is left alone: doubled with each round in which the one that tries is deferred.
IN_A_ROW = 3
AWAY_BASE_S, AWAY_MAX_S = 30.0, 1800.0
PROBE_WAIT_S = 5.0  # while one e-mail tries whether the domain is well again
MOST_SLOW = 5000
# Those that wait do not come back all at once.
SPREAD_S, MOST_SPREAD_S = 0.05, 60.0
# A rate that is used up gives each its own time, as far ahead as this.
FULL_WAIT_S, FURTHEST_S = 1.0, 3600.0


class DomainLimit(NamedTuple):
    """What a recipient domain, or several that share servers, gets at most.

    Attributes:
        domains: With `*.` in front of one, all below it.
        max_per_s: E-mails a second, of all workers together; 0 for no limit.
        max_connections: E-mails under way at once, in one worker; 0 for no limit.
    """

    name: str
    domains: frozenset[str]
    max_per_s: float = 0.0
    max_connections: int = 0


class DomainBucket:
    """What is used of one limit."""

    def __init__(self, limit: DomainLimit) -> None:
        self.limit = limit
        self.rate = LearnedRate(limit.max_per_s)
        self._under_way = 0
        self._given_until = 0.0  # times that were given to those who wait

    def enter(self, now: float) -> float:
        """Let one e-mail begin and return 0, else return when it should come back, in seconds."""
        most = self.limit.max_connections
        if most and self._under_way >= most:
            return FULL_WAIT_S
        if not self.rate.allows():
            per_s = max(self.rate.soon_per_s, 1e-6)
            self.rate.queued(min(1000, int((self._given_until - now) * per_s)))
            at = max(self._given_until, now) + 1.0 / per_s
            self._given_until = min(at, now + FURTHEST_S)
            return max(at - now, 0.1) if at < now + FURTHEST_S else FURTHEST_S
        self.rate.spend()
        self._under_way += 1
        return 0.0

    def leave(self) -> None:
        """Note that an e-mail is under way no more."""
        self._under_way -= 1


@dataclass(slots=True)
class SlowDomain:
    """A domain that deferred e-mails. Times are of a monotonic clock."""

    in_a_row: int = 0
    rounds: int = 0  # how often it was left alone
    away_until: float = 0.0
    reason: str = ''
    is_tried: bool = False
    waiting: int = 0  # that were given back in this round

    def wait_s(self, now: float) -> float:
        """Return 0 when an e-mail may try it, else how long to wait."""
        left_s = self.away_until - now
        if left_s <= 0 and not (self.rounds and self.is_tried):
            return 0.0
        self.waiting += 1
        return max(left_s, PROBE_WAIT_S) + min(MOST_SPREAD_S, self.waiting * SPREAD_S)

    def deferred(self, reply: Reply, now: float) -> None:
        """Note one more e-mail that was deferred because of the domain."""
        if now < self.away_until:
            return  # it was under way when the domain was given up
        self.in_a_row += 1
        if self.rounds or self.in_a_row >= IN_A_ROW:
            self.away_until = now + min(AWAY_MAX_S, AWAY_BASE_S * 2.0 ** min(self.rounds, 64))
            self.rounds += 1
            self.waiting, self.reason = 0, str(reply)[:200]


class Admission(NamedTuple):
    """Who of an e-mail's recipients may be tried now.

    Attributes:
        now: These.
        later: These not.
        wait_s, reason: When to come back because of them, and why they wait.
        entered: For DomainBoard.done.
    """

    now: tuple[str, ...]
    later: tuple[str, ...] = ()
    wait_s: float = 0.0
    reason: str = ''
    entered: Sequence[tuple[DomainBucket | None, SlowDomain | None]] = ()


@dataclass
class DomainBoard:
    """What one worker knows of recipient domains."""

    buckets: tuple[DomainBucket, ...] = ()
    slow: OrderedDict[str, SlowDomain] = field(default_factory=OrderedDict)

    def limit(self, limits: Sequence[DomainLimit]) -> None:
        """Use these limits from now on; of those that are the same, what is used is kept."""
        known = {bucket.limit: bucket for bucket in self.buckets}
        self.buckets = tuple(known.get(limit) or DomainBucket(limit) for limit in limits)

    def admit(self, recipients: tuple[str, ...], *, is_suspect: bool = False) -> Admission:
        """Tell who may be tried now; whoever asks calls done in the end.

        Args:
            is_suspect: It does not wait: the longer it does, the likelier another loss.
        """
        if is_suspect or not (self.buckets or self.slow):
            return Admission(recipients)
        now_s = time.monotonic()
        waits: dict[str, tuple[float, str]] = {}
        entered: list[tuple[DomainBucket | None, SlowDomain | None]] = []
        for domain in dict.fromkeys(map(domain_of, recipients)):
            wait_s, reason = self._enter(domain, now_s, entered)
            if wait_s:
                waits[domain] = wait_s, f'{domain}: {reason}'
        if not waits:
            return Admission(recipients, entered=entered)
        later = tuple(r for r in recipients if domain_of(r) in waits)
        wait_s, _ = min(waits.values())
        reasons = '; '.join(reason for _, reason in waits.values())
        goes = tuple(r for r in recipients if domain_of(r) not in waits)
        return Admission(goes, later, wait_s, reasons, entered)

    def _enter(
        self,
        domain: str,
        now_s: float,
        entered: list[tuple[DomainBucket | None, SlowDomain | None]],
    ) -> tuple[float, str]:
        slow = self.slow.get(domain)
        if slow is not None and (wait_s := slow.wait_s(now_s)):
            return wait_s, f'left alone, {slow.reason}'
        bucket = next((b for b in self.buckets if is_below(domain, b.limit.domains)), None)
        if bucket is not None and (wait_s := bucket.enter(now_s)):
            return wait_s, f'its limit {bucket.limit.name}'
        if slow is not None and slow.rounds:
            slow.is_tried = True
        if bucket is not None or slow is not None:
            entered.append((bucket, slow))
        return 0.0, ''

    def done(self, admission: Admission) -> None:
        """Note that the e-mail is under way no more."""
        for bucket, slow in admission.entered:
            if bucket is not None:
                bucket.leave()
            if slow is not None:
                slow.is_tried = False

    def answered(self, answers: Mapping[str, tuple[Outcome, Reply]], phase: Phase) -> None:
        """Take note of what a relay said to each recipient, and how far it came."""
        for recipient, (outcome, reply) in answers.items():
            if outcome is Outcome.DEFERRED:
                if phase is not Phase.MAIL:
                    self._deferred(domain_of(recipient), reply, to_rcpt=phase is Phase.RCPT)
            elif self.slow and outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
                self.slow.pop(domain_of(recipient), None)  # it answers

    def _deferred(self, domain: str, reply: Reply, *, to_rcpt: bool) -> None:
        if not is_about_domain(reply, domain, to_rcpt=to_rcpt):
            return
        if (slow := self.slow.get(domain)) is None:
            slow = self.slow[domain] = SlowDomain()
            if len(self.slow) > MOST_SLOW:
                self.slow.popitem(last=False)
        slow.deferred(reply, time.monotonic())

    def left_alone(self) -> list[tuple[str, float, str]]:
        """Return the domains that get no mail now, with how long not, and why."""
        now = time.monotonic()
        return [
            (domain, slow.away_until - now, slow.reason)
            for domain, slow in self.slow.items()
            if slow.away_until > now
        ]
