"""The verdict of `make rehearsal`: each kind of fault it looks for is found when it is there."""

import json
from datetime import UTC, datetime

import pytest

from dev.inbox_store import StoredMessage
from tests.rehearsal.guests import Guests, form_changed, rows_gone
from tests.rehearsal.ledger import add_arrivals, judge, read_ledger


def message(recipient, at):
    received_at = datetime.fromtimestamp(at, UTC).isoformat()
    return StoredMessage(
        1, 'primary', received_at, 'a@b', [recipient], None, None, 1, True, None, '1.eml', True
    )


@pytest.fixture
def ledger_of(tmp_path):
    def read(notes, arrivals):
        path = tmp_path / 'ledger.jsonl'
        path.write_text(''.join(json.dumps(note) + '\n' for note in notes) + '{"torn')
        ledger = read_ledger(path)
        add_arrivals(ledger, [message(f'{number}@example.com', at) for number, at in arrivals])
        return ledger

    return read


def inserted(number, kind, not_before=None):
    recipient = f'{number}@example.com'
    return {
        'event': 'inserted',
        'id': number,
        'recipient': recipient,
        'kind': kind,
        'not_before': not_before,
    }


def test_lost_and_doubled_are_counted_over_what_must_be_sent(ledger_of):
    ledger = ledger_of([inserted(n, 'live') for n in (1, 2, 3)], [(1, 5.0), (2, 5.0), (2, 6.0)])
    verdict = judge(ledger)
    assert (verdict.must, verdict.sent, verdict.lost, verdict.doubled) == (3, 2, [3], [2])


def test_old_mail_counts_as_unasked_until_it_is_released(ledger_of):
    ledger = ledger_of([inserted(1, 'old failed'), inserted(2, 'old pending')], [(1, 5.0)])
    assert judge(ledger).old_sent == [1]
    verdict = judge(ledger, released=[1, 2])
    assert (verdict.old_sent, verdict.lost) == ([], [2])


def test_cancelled_given_up_and_sent_before_are_unwanted(ledger_of):
    kinds = ('cancelled', 'given up', 'sent before', 'tomorrow')
    ledger = ledger_of(
        [inserted(n, kind) for n, kind in enumerate(kinds)], [(n, 5.0) for n in range(4)]
    )
    assert judge(ledger).unwanted == [0, 1, 2, 3]


def test_early_is_before_the_eta_or_the_last_refusals_time(ledger_of):
    notes = [inserted(1, 'eta', 10.0), inserted(2, 'eta', 10.0), inserted(3, 'refused')]
    notes += [{'event': 'began', 'id': 3}, {'event': 'failed', 'id': 3, 'not_before': 20.0}]
    assert judge(ledger_of(notes, [(1, 9.0), (2, 10.5), (3, 15.0)])).early == [1, 3]


def test_a_kill_excuses_one_more_of_what_was_in_flight_and_nothing_else(ledger_of):
    notes = [inserted(n, 'waiting') for n in (1, 2, 3)]
    notes += [{'event': 'began', 'id': n} for n in (1, 2, 3)] + [{'event': 'recorded', 'id': 2}]
    ledger = ledger_of(
        notes, [(1, 5.0), (1, 6.0), (2, 5.0), (2, 6.0), (3, 5.0), (3, 6.0), (3, 7.0)]
    )
    assert ledger.in_flight == {1, 3}
    verdict = judge(ledger, may_double=ledger.in_flight)
    assert (verdict.forced, verdict.doubled) == ([1], [2, 3])


def test_errors_of_the_application_are_kept(ledger_of):
    error = {'event': 'application error', 'where': 'orm insert', 'error': 'LookupError: uncertain'}
    assert ledger_of([error], []).errors == [error]


def test_guests_rows_and_schema_are_compared():
    before = Guests({'sessions': frozenset('abc')}, frozenset({'a.id integer', 'index x'}))
    now = Guests({'sessions': frozenset('ab')}, frozenset({'a.id bigint', 'index x'}))
    assert rows_gone(before, now) == {'sessions': 1}
    assert form_changed(before, now) == ['missing: a.id integer']
    assert form_changed(before, now, exactly=True) == [
        'missing: a.id integer',
        'added: a.id bigint',
    ]
