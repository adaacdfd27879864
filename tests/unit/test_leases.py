"""The claims a worker holds, by its own clock."""

import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from db.claimed import Claim, LeaseLost
from delivery.leases import SAFETY_S, Leases, now_s
from mail_outbox.envelope import Email
from tests.unit.scripted_relay import Clock

LEASE_S = 30.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr('delivery.leases.time', clock)
    return clock


def a_claim(email_id: int = 1) -> Claim:
    email = Email(id=email_id, recipient='anna@example.com')
    return Claim(
        email, uuid4(), attempt=1, max_attempts=5, claimed_at=datetime.now(UTC), settled={}
    )


@pytest.fixture
def claim() -> Claim:
    return a_claim()


@pytest.fixture
def leases(clock: Clock, claim: Claim) -> Leases:
    leases = Leases(LEASE_S)
    leases.hold([claim], since=clock.now_s)
    return leases


def test_fresh_claim_may_be_sent(leases: Leases, claim: Claim) -> None:
    leases.check(claim)
    assert leases.held() == [claim.key]


def test_claim_may_be_sent_until_shortly_before_its_lease_ends(
    leases: Leases, claim: Claim, clock: Clock
) -> None:
    clock.now_s += LEASE_S - SAFETY_S
    leases.check(claim)
    clock.now_s += 0.001
    with pytest.raises(LeaseLost, match='e-mail 1 ran out before its end'):
        leases.check(claim)


def test_lease_counts_from_before_the_claim_was_asked_for(clock: Clock, claim: Claim) -> None:
    leases = Leases(LEASE_S)
    asked_at = clock.now_s
    clock.now_s += LEASE_S
    leases.hold([claim], since=asked_at)
    with pytest.raises(LeaseLost):
        leases.check(claim)


def test_renewal_counts_from_before_it_was_asked_for(
    leases: Leases, claim: Claim, clock: Clock
) -> None:
    clock.now_s += 10
    asked_at = clock.now_s
    clock.now_s += 5
    leases.renewed([claim.key], set(), asked_at)
    clock.now_s = asked_at + LEASE_S - SAFETY_S
    leases.check(claim)
    clock.now_s += 0.001
    with pytest.raises(LeaseLost):
        leases.check(claim)


def test_claim_that_the_database_no_longer_grants_is_lost_at_once(
    leases: Leases, claim: Claim, clock: Clock
) -> None:
    leases.renewed([claim.key], {claim.key}, clock.now_s)
    with pytest.raises(LeaseLost):
        leases.check(claim)
    assert leases.held() == []


def test_renewal_does_not_bring_back_a_claim_that_was_dropped_meanwhile(
    leases: Leases, claim: Claim, clock: Clock
) -> None:
    keys = leases.held()
    leases.drop(claim)
    leases.renewed(keys, set(), clock.now_s)
    assert leases.held() == []


def test_claim_made_while_a_renewal_was_under_way_keeps_its_own_time(
    leases: Leases, clock: Clock
) -> None:
    keys = leases.held()
    asked_at = clock.now_s
    clock.now_s += 3
    later = a_claim(2)
    leases.hold([later], since=clock.now_s)
    leases.renewed(keys, set(), asked_at)
    clock.now_s += LEASE_S - SAFETY_S
    leases.check(later)


def test_dropped_claim_may_not_be_sent(leases: Leases, claim: Claim) -> None:
    leases.drop(claim)
    leases.drop(claim)
    with pytest.raises(LeaseLost):
        leases.check(claim)


def test_another_claim_of_the_same_e_mail_is_not_covered(leases: Leases) -> None:
    with pytest.raises(LeaseLost):
        leases.check(a_claim(1))


def test_leases_go_on_while_the_machine_sleeps(
    monkeypatch: pytest.MonkeyPatch, claim: Claim
) -> None:
    """CLOCK_MONOTONIC stands still then, and the database's clock does not."""
    leases = Leases(LEASE_S)
    leases.hold([claim], since=now_s())
    leases.check(claim)
    awake_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr('delivery.leases.time.clock_gettime', lambda _: awake_s + LEASE_S)
    with pytest.raises(LeaseLost):
        leases.check(claim)
