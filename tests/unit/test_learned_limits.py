"""What a relay takes, learned from what it refuses; see test_pool_limit and test_pool_used_up."""

import pytest

from mail.relay.learned_limits import (
    FEWER_MESSAGES_FOR_S,
    MAX_MESSAGES_PER_CONNECTION,
    ONE_MORE_EVERY_S,
    ConnectionLimit,
    MessageLimit,
)


@pytest.fixture
def limit() -> ConnectionLimit:
    """Five are configured, and the relay has refused a third."""
    limit = ConnectionLimit(5)
    limit.refused(2, 1000.0)
    return limit


def test_refused_connection_is_the_limit_for_a_while(limit: ConnectionLimit) -> None:
    assert limit.allows(1, 1000.0)
    assert not limit.allows(2, 999.0 + ONE_MORE_EVERY_S)
    assert limit.allows(2, 1000.0 + ONE_MORE_EVERY_S)


def test_one_connection_at_a_time_tries_what_is_above_the_limit(limit: ConnectionLimit) -> None:
    later = 1000.0 + ONE_MORE_EVERY_S
    assert limit.allows(2, later)
    assert not limit.allows(3, later + 1000.0)
    limit.tried()
    assert limit.allows(3, later)


def test_limit_is_forgotten_with_an_outage(limit: ConnectionLimit) -> None:
    limit.forget()
    assert limit.allows(4, 1000.0)


def test_number_of_messages_is_believed_when_two_connections_agree() -> None:
    limit = MessageLimit()
    for used_up_after in (7, 9):
        limit.ended(used_up_after, 1000.0)
        assert limit.most == MAX_MESSAGES_PER_CONNECTION
    limit.ended(9, 1000.0)
    assert limit.most == 9


def test_number_of_messages_is_forgotten_after_a_while() -> None:
    limit = MessageLimit()
    limit.ended(9, 1000.0)
    limit.ended(9, 1000.0)
    limit.upkeep(1000.0 + FEWER_MESSAGES_FOR_S)
    assert limit.most == 9
    limit.upkeep(1001.0 + FEWER_MESSAGES_FOR_S)
    assert limit.most == MAX_MESSAGES_PER_CONNECTION
