"""ingress/tally.py: every reply that refuses something is counted as what it is."""

import pytest

from ingress import commands, door, incoming, listener, session
from ingress.tally import ReplyTally


@pytest.mark.parametrize(
    ('reply', 'outcome'),
    [
        (door.NOT_NOW, 'not-stored'),
        (incoming.NO_ROOM, 'no-room'),
        (incoming.BARE_LINE_END, 'content-refused'),
        (incoming.LONG_LINE, 'content-refused'),
        (incoming.too_large(5), 'too-large'),
        ('552 Error: message size exceeds fixed maximum message size', 'too-large'),
        (commands.TOO_MANY_RECIPIENTS, 'too-many-recipients'),
        ('553 5.1.3 Error: malformed address', 'address-refused'),
        (session.LOGIN_LATER, 'login-not-checked'),
        (session.UNKNOWN_LOGIN, 'login-refused'),
        (session.TOO_SLOW, 'too-slow'),
        (session.TOO_MUCH_TALK, 'too-much-talk'),
        (session.TOO_MANY_LOGINS, 'too-much-talk'),
        (listener.FULL.decode(), 'turned-away'),
        ('550 5.7.1 nobody has allowed that sender', 'sender-refused'),
        ('530 5.7.0 log in first', 'not-logged-in'),
        ('500 Error: bad syntax', 'command-refused'),
    ],
)
def test_refusal_is_counted_as_what_it_is(reply, outcome):
    tally = ReplyTally()
    tally.note_refused(reply)
    assert tally.outcomes == {outcome: 1}


def test_goodbye_of_a_server_that_is_stopped_refuses_nobody():
    tally = ReplyTally()
    tally.note_refused(session.GOODBYE)
    assert tally.outcomes == {}


def test_waits_are_told_by_quantile_of_what_was_accepted_lately(monkeypatch):
    tally = ReplyTally()
    assert tally.waits_s() == {}
    tally.note_accepted(10, 50.0)
    monkeypatch.setattr('ingress.tally.time.monotonic', lambda: 1e9)
    for hundredth in range(100):
        tally.note_accepted(10, hundredth / 100)
    assert tally.waits_s() == {'0.5': 0.5, '0.95': 0.95, '0.99': 0.99}
    assert (tally.outcomes, tally.accepted_bytes) == ({'accepted': 101}, 1010)
