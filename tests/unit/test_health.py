"""When a relay that failed is tried again, and by how many."""

from mail.relay.health import COOL_DOWN_BASE_S, COOL_DOWN_MAX_S, PROBE_WAIT_S, SERVES_S, Health


def test_cool_down_doubles_with_every_failure_in_a_row_up_to_a_limit() -> None:
    health, now, pauses = Health(), 1000.0, []
    for _ in range(200):
        health.failed('down', now)
        pauses.append(health.unavailable_for_s(now))
        now += pauses[-1]
        assert not health.is_cooling(now)
    assert pauses[:3] == [COOL_DOWN_BASE_S, 2 * COOL_DOWN_BASE_S, 4 * COOL_DOWN_BASE_S]
    assert pauses[-1] == COOL_DOWN_MAX_S


def test_relay_that_an_e_mail_tries_is_left_to_it() -> None:
    health = Health()
    health.failed('down', 1000.0)
    health.probes += 1
    assert health.unavailable_for_s(1000.0 + COOL_DOWN_BASE_S) == PROBE_WAIT_S
    health.probes -= 1
    assert health.unavailable_for_s(1000.0 + COOL_DOWN_BASE_S) == 0


def test_recovery_ends_the_row_of_failures() -> None:
    health = Health()
    for now in (1000.0, 2000.0):
        health.failed('down', now)
    assert health.last_error == 'down'
    health.recovered(3000.0)
    assert (health.last_error, health.failures) == (None, 0)
    health.failed('down again', 4000.0)
    assert health.unavailable_for_s(4000.0) == COOL_DOWN_BASE_S


def test_relay_serves_for_a_while_after_it_let_us_in() -> None:
    health = Health()
    assert not health.serves(1000.0)
    health.served(1000.0)
    assert health.serves(999.0 + SERVES_S)
    assert not health.serves(1000.0 + SERVES_S)
